"""Runs one integer network on Lava: `python main.py WORK_DIR TOKEN PARENT [BUILDER]`, in the toolchain's Python 3.10.

Reads network.h5 and inputs.h5 of WORK_DIR, writes raw spike files, `heartbeat.json` after every sample and
`error.json` if anything fails. Exit status: 0 done, 1 failed with error.json written. TOKEN marks the shared memory
of this run (/dev/shm/<TOKEN>_*), so that whoever cleans up finds it; PARENT is the process that must stay alive.
BUILDER is the module that makes Lava's processes: `network`, from network.h5; `netx_network`, from network.net.
"""

from __future__ import annotations

import json
import multiprocessing.shared_memory as shared_memory
import sys
from importlib import import_module
from pathlib import Path

# Lava makes its segments under the standard library's names; a prefix of our own tells runs apart.
prefix = f"/{sys.argv[2]}_"
vars(shared_memory).update(_SHM_NAME_PREFIX=prefix, _SHM_SAFE_NAME_LENGTH=len(prefix) + 16)

sys.path.append(str(Path(__file__).resolve().parents[2] / "worker"))
from guard import Guard, run_and_leave  # noqa: E402 - the prefix must be set before anything makes shared memory


def main(work_dir: Path) -> None:
    """Build and run, sample by sample."""
    guard = Guard(work_dir, token=sys.argv[2], parent=int(sys.argv[3]))
    guard.start()
    guard.beat("importing", 0)
    builder = import_module((*sys.argv[4:], "network")[0])  # seconds of Lava: the guard looks already
    guard.beat("reading", 0)
    job = builder.read_job(work_dir)
    names = {f"spikes.{k}.bin": p["name"] for k, p in enumerate(job.populations)}
    (work_dir / "populations.json").write_text(json.dumps(names))
    guard.beat("building", 0)
    network = builder.build(job, work_dir)
    steps = [job.n_steps] * job.n_samples + ([network.max_depth] if network.max_depth else [])
    for k, n in enumerate(steps):
        network.run(n, on_start=guard.watch)
        guard.beat("running", min(k + 1, job.n_samples))
    guard.beat("done", job.n_samples)
    guard.clean_up()  # no process.stop(): it can hang, and every file is written


if __name__ == "__main__":
    run_and_leave(main, Path(sys.argv[1]))
