"""Runs an exported folder in the toolchain's Python: `main.py WORK_DIR TOKEN PARENT SIMULATOR [BOARDS]`.

WORK_DIR/pynn is the folder, with its own run.py. SIMULATOR: one of run.py's, whose result goes to WORK_DIR/result.h5;
or `map`, and sPyNNaker's mapping, on so many BOARDS if not 0, goes to WORK_DIR/mapping.json. `heartbeat.json` says how
far it is, `error.json` what failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "worker"))
from guard import Guard, run_and_leave

EXPORT = "pynn"


def main(work_dir: Path) -> None:
    """Run the samples, or map the network."""
    guard, simulator = Guard(work_dir, token=sys.argv[2], parent=int(sys.argv[3])), sys.argv[4]
    guard.start()
    guard.beat("importing", 0)
    folder = work_dir / EXPORT
    sys.path.insert(0, str(folder))
    import run

    guard.beat("building", 0)
    if simulator == "map":
        import mapping

        found = mapping.map_network(folder, int(sys.argv[5]), lambda state: guard.beat(state, 0))
        (work_dir / "mapping.json").write_text(json.dumps(found))
    else:
        result = run.simulate(folder, simulator, lambda n: guard.beat("running", n))
        run.write_result(work_dir / "result.h5", result)


if __name__ == "__main__":
    run_and_leave(main, Path(sys.argv[1]))
