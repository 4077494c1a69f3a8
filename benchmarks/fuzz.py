"""Damaged files of every format that is read: `python -m benchmarks.fuzz`.

Small valid files are damaged by bytes (flips, deletions, insertions, truncations) and by structure (values replaced, keys left
out or renamed, counts changed) and given to their readers, each in a process with a limit of time and memory. The right answers
are a result, with or without a note of ours in one line, and a ``ValueError`` in one line of at most 600 characters. A fault is
any other exception, a longer text, a warning that is not ours, a crash, or no answer within 10 s. The faults are kept, damaged
files and all, beside the JSON. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing as mp
import os
import resource
import shutil
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.timing import processor

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 600  # characters of a message
SECONDS = 10.0
MEMORY = 2 << 30  # bytes more than the libraries take


def work(channel: Connection, seed: int, folder: str) -> None:
    """Answers cases ``(format, number)`` with what happened: an outcome and a text."""
    tqdm.set_lock(threading.RLock())  # one between processes would be left behind by those that are killed
    from benchmarks.fuzz_files import FORMATS, copied, damage  # loads all readers

    _limit_memory()
    valid: dict[str, tuple[dict[str, bytes], Path]] = {}
    place = Path(folder) / "case"
    while (case := channel.recv()) is not None:
        name, number = case
        if name not in valid:
            made = Path(folder) / f"valid-{name}"
            made.mkdir()
            main = FORMATS[name].make(made)
            FORMATS[name].read(main)  # it must be valid
            files = {str(p.relative_to(made)): p.read_bytes() for p in made.rglob("*") if p.is_file()}
            valid[name] = files, main.relative_to(made)
        files, main = valid[name]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        copied(files, place)
        index = sorted(FORMATS).index(name)
        how = damage(place, place / main, np.random.default_rng([seed, index, number]))
        channel.send(("begun", how))
        channel.send(outcome(lambda name=name, main=main: FORMATS[name].read(place / main)))


def _limit_memory() -> None:
    faulthandler.disable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def outcome(read: Callable[[], object]) -> tuple[str, str]:
    """Whether a reader gave a result (``read``), refused clearly or is at ``fault``; and the text of that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read()
            found = ("read", "")
        except ValueError as error:
            text, most = str(error), LONGEST * max(1, len(getattr(error, "mistakes", ())))
            bad = "\n" in text or len(text) > most or not text
            found = ("fault" if bad else "refused", f"message: {type(error).__name__}: {text}" if bad else text)
        except Exception as error:  # noqa: BLE001 - any other is what is looked for
            found = ("fault", f"{type(error).__name__}: {error}")
    for warning in caught:
        text = str(warning.message)
        ours = warning.category is UserWarning and Path(warning.filename).is_relative_to(ROOT)
        if found[0] != "fault" and (not ours or "\n" in text or len(text) > LONGEST):
            found = ("fault", f"warning: {warning.category.__name__}: {text} ({warning.filename}:{warning.lineno})")
    return found


class Worker:
    """A process that is started again when it dies or hangs."""

    def __init__(self, seed: int) -> None:
        self._seed, self._process, self.folder = seed, None, Path(tempfile.mkdtemp(prefix="fuzz-"))

    def start(self) -> None:
        context = mp.get_context("spawn")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self._seed, str(self.folder)), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, name: str, number: int) -> tuple[str, str, str]:
        """What came of a case: outcome, text, and how the file was damaged."""
        if self._process is None:
            self.start()
        how = ""
        try:
            self._channel.send((name, number))
            if not self._channel.poll(120):  # the libraries are loaded, the file is made
                raise RuntimeError(f"{name}: the worker did not begin")
            _, how = self._channel.recv()
            if self._channel.poll(SECONDS):
                found, text = self._channel.recv()
                return found, text, how
            self.stop(keep=True)
            return "fault", f"no answer within {SECONDS:g} s", how
        except (EOFError, ConnectionError, OSError):
            code = self.stop(keep=True)
            if not how:
                raise RuntimeError(f"{name}: the worker died before the file was read, exit code {code}") from None
            return "fault", f"crash, exit code {code}", how

    def stop(self, keep: bool = False) -> int | None:
        code = None
        if self._process is not None:
            self._process.join(0.5)
            self._process.kill()
            self._process.join()
            code, self._process = self._process.exitcode, None
            self._channel.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        return code


def run(cases: list[tuple[str, int]], seed: int, out: Path, bar: tqdm) -> list[dict[str, Any]]:
    """All cases, one after the other; what came of each."""
    worker, rows = Worker(seed), []
    for name, number in cases:
        found, text, how = worker.run(name, number)
        rows.append({"format": name, "number": number, "outcome": found, "text": text, "damage": how})
        if found == "fault":
            kept = out / f"{name}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(worker.folder / "case", kept)
        bar.update()
    worker.stop()
    return rows


def main() -> None:
    tqdm.set_lock(threading.RLock())
    from benchmarks.fuzz_files import FORMATS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/fuzz.json"))
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", nargs="*", choices=sorted(FORMATS), default=sorted(FORMATS))
    parser.add_argument("--number", type=int, help="only the file of this number, to see a fault again")
    arguments = parser.parse_args()
    kept = arguments.out.parent / arguments.out.stem
    kept.mkdir(parents=True, exist_ok=True)
    names = list(arguments.format)
    numbers = range(-(-arguments.count // len(names))) if arguments.number is None else [arguments.number]
    cases = [(name, number) for name in names for number in numbers]
    cases = cases if arguments.number is not None else cases[: arguments.count]
    began = time.perf_counter()
    with tqdm(total=len(cases), desc="fuzz", unit="file", delay=2, leave=False, disable=None) as bar:
        rows = run(cases, arguments.seed, kept, bar)
    seconds = time.perf_counter() - began
    faults = [row for row in rows if row["outcome"] == "fault"]
    print(f"{processor()}, seed {arguments.seed}, {len(rows):,} files, {seconds:.0f} s")
    print(f"{'':12s}{'files':>8s}{'read':>8s}{'refused':>9s}{'faults':>8s}")
    for name in names:
        count = Counter(row["outcome"] for row in rows if row["format"] == name)
        print(f"{name:12s}{count.total():8,d}{count['read']:8,d}{count['refused']:9,d}{count['fault']:8,d}")
    for row in faults[:20]:
        print(f"{row['format']} {row['number']}: {' '.join(row['text'].split())[:160]} ({row['damage']})")
    made = {"processor": processor(), "seed": arguments.seed, "seconds": seconds, "files": len(rows), "faults": faults}
    made["counts"] = {n: Counter(row["outcome"] for row in rows if row["format"] == n) for n in names}
    arguments.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
