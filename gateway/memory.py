"""draft"""
import gc


def settle() -> None:
    gc.collect()
    gc.freeze()
