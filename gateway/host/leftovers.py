"""What killed runs left in this namespace, undone: `gateway undo`.

First the journals whose owner is dead, newest change first. Then whatever carries our mark
and belongs to no live gateway, for the case that the journal was lost: nftables tables by
their name, routes by their protocol number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyroute2 import IPRoute

from gateway.host import links, nft, routes, uplink
from gateway.host.journal import Journal, JournalFile, journals, undo_order, undo_recorded
from gateway.host.netlink import explaining
from gateway.host.plan import HostError

Log = Callable[[str], None]


def undo_leftovers(run_dir: str, tap: str | None, log: Log) -> int:
    """Undo what killed runs left, of one device or (None) of all; how many things were undone.

    Raises HostError when the named device is served by a live process, or when something
    cannot be undone; the rest has been undone then.
    """
    run = _Undo(run_dir, tap, log)
    run.undo_journals()
    run.undo_marks()
    if run.failed:
        raise HostError(
            "not everything could be undone (see above): run `gateway undo` as root,"
            " then remove what is named by hand"
        )
    return run.count


@dataclass
class _Undo:
    run_dir: str
    tap: str | None
    log: Log
    count: int = 0
    failed: bool = False
    alive: set[str] = field(default_factory=set)

    def undo_journals(self) -> None:
        for journal, content in journals(self.run_dir):
            if content is not None and content.owner_alive():
                self._skip(journal, content)
            elif self.tap in (None, journal.device):
                self._journal(journal, content)

    def _skip(self, journal: Journal, content: JournalFile) -> None:
        if self.tap == journal.device:
            raise HostError(
                f"process {content.pid} serves {self.tap}: stop it, which undoes everything"
            )
        self.alive.add(journal.device)
        if self.tap is None:
            self.log(f"{journal.device} is served by process {content.pid}: left alone")

    def _journal(self, journal: Journal, content: JournalFile | None) -> None:
        if content is None:
            aside = journal.set_aside()
            self.log(f"{journal.path} cannot be read: moved to {aside}, nothing undone from it")
            return
        failed = False
        for change in [*reversed(content.changes), *undo_order(content.later)]:
            outcome = undo_recorded(change, journal, self.log)
            self.count += outcome == "undone"
            failed = failed or outcome == "failed"
        if failed:
            self.failed = True
        else:
            journal.discard()

    def undo_marks(self) -> None:
        for device in nft.our_tables():
            if device not in self.alive and self.tap in (None, device):
                nft.delete_table(nft.TABLE_PREFIX + device)
                self.log(f"undone: nftables table ip {nft.TABLE_PREFIX}{device}")
                self.count += 1
        with explaining("look at the routes"), IPRoute() as ipr:
            self._routes(ipr)
            for change in uplink.left_without_journal(ipr, self.alive, self.tap):
                if change.undo() is None:
                    self.log(f"undone: {change.describe()}")
                    self.count += 1

    def _routes(self, ipr: IPRoute) -> None:
        taps = {link.name: links.layer3_link(ipr, link) for link in links.all_links(ipr)}
        spared = {link.index for name, link in taps.items() if name in self.alive}
        chosen = {link for name, link in taps.items() if self.tap in (None, name)}
        for link in chosen:
            if link.index in spared:
                continue
            for destination in routes.marked_routes(ipr, link.index):
                for next_hop in (True, False):
                    route = routes.Route(destination, link.name, link.index, next_hop)
                    if route.undo() is None:
                        self.log(f"undone: {route.describe()}")
                        self.count += 1
                        break
