"""The command line: flags to configuration keys, exit statuses, one line for each mistake."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from gateway import cli, cli_keys
from gateway.cli import main, parse_options
from gateway.cli_keys import parse_value
from gateway.config import ConfigError, all_keys, load
from gateway.host.plan import HostError
from gateway.options import Options
from gateway.tap import DeviceError


@pytest.fixture(autouse=True)
def logger_as_before():
    logger = logging.getLogger("gateway")
    before = (list(logger.handlers), logger.propagate, logger.level)
    yield
    logger.handlers[:], logger.propagate, logger.level = before


@pytest.fixture
def run(monkeypatch):
    """Stands in for gateway.run: keeps the options, does `run.acts(options)`."""
    module = types.ModuleType("gateway.run")
    fake = types.SimpleNamespace(options=None, acts=lambda options: 0)

    def run(options):
        fake.options = options
        return fake.acts(options)

    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "gateway.run", module)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    return fake


def test_no_arguments(run):
    assert main([]) == 0
    assert run.options == Options()


def test_every_flag_becomes_its_key():
    line = (
        "--config /x.toml --prefix 64:ff9b::/96 --prefix 2001:db8::/64 --pool4 198.51.100.8 "
        "--allow fd00::/8 --deny4 10.0.0.0/8 --tap nat0 --device tun --layout trailing "
        "--mtu 1400 --mss-clamp 1200 --log-level debug --set timeouts.udp_default=60 "
        "--dry-run"
    )
    options = parse_options(line.split())
    assert options == Options(
        command="run",
        config_path=Path("/x.toml"),
        overrides={
            "prefix": ["64:ff9b::/96", "2001:db8::/64"],
            "pool4": ["198.51.100.8"],
            "allow": ["fd00::/8"],
            "deny4": ["10.0.0.0/8"],
            "tap": "nat0",
            "device": "tun",
            "layout": "trailing",
            "mtu": 1400,
            "mss_clamp": 1200,
            "log_level": "debug",
            "timeouts.udp_default": 60,
        },
        dry_run=True,
        check=False,
    )
    config = load(None, options.overrides)
    assert (config.tap, config.mtu, config.timeouts.udp_default) == ("nat0", 1400, 60)


def test_check():
    assert parse_options(["--check"]) == Options(check=True)


def test_a_name_of_digits_stays_a_string():
    assert parse_options(["--tap", "7"]).overrides == {"tap": "7"}


def test_the_last_of_flag_and_set_wins():
    assert parse_options(["--mtu", "1400", "--set", "mtu=1300"]).overrides == {"mtu": 1300}
    assert parse_options(["--set", "mtu=1300", "--mtu", "1400"]).overrides == {"mtu": 1400}


def test_flag_adds_to_a_list_that_set_began():
    given = ["--set", "prefix=64:ff9b::/96", "--prefix", "2001:db8::/96"]
    assert parse_options(given).overrides == {"prefix": ["64:ff9b::/96", "2001:db8::/96"]}


def test_two_command_lines_share_nothing():
    assert parse_options(["--prefix", "64:ff9b::/96"]).overrides
    assert parse_options([]).overrides == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60),
        ("1.5", 1.5),
        ("true", True),
        ('"60"', "60"),
        ("['a', 'b']", ["a", "b"]),
        ("trailing", "trailing"),
        ("64:ff9b::/96", "64:ff9b::/96"),
        ("1\nmtu = 2", "1\nmtu = 2"),
        ("", ""),
    ],
)
def test_value_of_set(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_set_of_a_table_sets_its_keys():
    options = parse_options(["--set", "timeouts={udp_default=1, tcp_est=2}"])
    assert options.overrides == {"timeouts.udp_default": 1, "timeouts.tcp_est": 2}


def test_undo():
    assert parse_options(["undo"]) == Options(command="undo")
    assert parse_options(["undo", "--tap", "tap3"]).overrides == {"tap": "tap3"}


def test_undo_keeps_what_stood_before_it():
    options = parse_options(
        ["--config", "/x.toml", "--set", "run_dir=/run/x", "undo", "--tap", "tap3"]
    )
    assert options == Options("undo", Path("/x.toml"), {"run_dir": "/run/x", "tap": "tap3"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--frob"], "unknown flag --frob; gateway --help"),
        (["--frob=1"], "unknown flag --frob; gateway --help"),
        (["--set", "mtu"], "--set mtu: KEY=VALUE is right"),
        (["--set", "=5"], "--set =5: KEY=VALUE is right"),
        (["--set", "a..b=5"], "--set a..b=5: KEY=VALUE is right"),
        (["--mtu"], "argument --mtu: expected one argument"),
        (["--pre", "64:ff9b::/96"], "unknown flag --pre, did you mean --prefix?; "),
        (["--dry-run", "--check"], "not allowed with argument"),
        (["--dry-run", "undo"], "--dry-run, --check and --advertise-merge do not go with undo"),
        (["--check", "undo"], "--dry-run, --check and --advertise-merge do not go with undo"),
        (["undo", "--prefix", "64:ff9b::/96"], "unrecognized arguments: --prefix"),
        (["redo"], "invalid choice: 'redo'"),
    ],
)
def test_usage_mistake_is_one_line_and_78(run, capsys, arguments, expected):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 78
    assert run.options is None
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("gateway: error: ")
    assert expected in line
    assert "--help" in line


def test_configuration_mistakes_are_a_line_each_and_78(run, capsys):
    def acts(options):
        load(options.config_path, options.overrides)

    run.acts = acts
    assert main(["--mtu", "big", "--prefix", "2001:db8::/63", "--layout", "x"]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:3] for line in lines] == [
        ["gateway", " error", " prefix"],
        ["gateway", " error", " layout"],
        ["gateway", " error", " mtu"],
    ]


def test_config_error_lines_with_percent_signs(run, capsys):
    def acts(options):
        raise ConfigError(["tap: 100%s"])

    run.acts = acts
    assert main([]) == 78
    assert capsys.readouterr().err == "gateway: error: tap: 100%s\n"


@pytest.mark.parametrize("error", [HostError, DeviceError])
def test_host_error_is_one_line_and_1(run, capsys, error):
    def acts(options):
        raise error("no /dev/net/tun; modprobe tun")

    run.acts = acts
    assert main([]) == 1
    assert capsys.readouterr().err == "gateway: error: no /dev/net/tun; modprobe tun\n"


def test_status_of_run_is_the_exit_status(run):
    run.acts = lambda options: 1
    assert main(["undo"]) == 1


@pytest.mark.parametrize(
    "interrupt",
    [
        KeyboardInterrupt(),
        BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])]),
    ],
    ids=["plain", "from trio"],
)
def test_interrupt_is_one_line_and_130(run, capsys, interrupt):
    def acts(options):
        raise interrupt

    run.acts = acts
    assert main(["--check"]) == 130
    assert capsys.readouterr().err == "gateway: error: interrupted\n"


def test_interrupt_does_not_hide_bugs(run):
    def acts(options):
        raise BaseExceptionGroup("", [KeyboardInterrupt(), AssertionError("bug")])

    run.acts = acts
    with pytest.raises(BaseExceptionGroup):
        main([])


def test_our_own_bugs_are_not_hidden(run):
    def acts(options):
        raise AssertionError("bug")

    run.acts = acts
    with pytest.raises(AssertionError):
        main([])


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for action in cli.build_parser()._actions:
        for flag in action.option_strings:
            assert flag in text
        assert action.help or not action.option_strings


def test_flags_are_keys():
    parser = cli.build_parser()
    keys = {action.dest for action in parser._actions if isinstance(action, cli_keys.SetKey)}
    assert keys - {"set"} <= set(all_keys())


_INTERRUPTED_IMPORT = """
import importlib.abc, os, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "gateway.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.{handler})
sys.argv = ["gateway", "--version"]
from gateway.__main__ import main
try:
    main()
finally:
    assert signal.getsignal(signal.SIGINT) is signal.{handler}
"""


@pytest.mark.parametrize(
    ("handler", "status"), [("default_int_handler", -signal.SIGINT), ("SIG_IGN", 0)]
)
def test_interrupt_while_modules_are_loaded(handler, status):
    ended = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT.format(handler=handler)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stderr) == (status, "")


def test_python_m_gateway():
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("gateway (tap64) ")
