"""The core: solvers beside those of other libraries, on problems whose answer is known."""

from pathlib import Path

CORE = sorted(
    str(path)
    for folder in ("solvers", "processes", "networks", "guidance", "constraints")
    for path in Path("scidiff", folder).rglob("*")
    if path.suffix in {".py", ".json"}
) + [f"scidiff/{name}.py" for name in ("state", "noise", "schedules", "grids", "denoiser", "sampling")]

if config["core"]["solvers"]:
    BENCHMARKS.append("solvers")


rule solvers:
    input:
        "benchmarks/solvers.py",
        "benchmarks/_solver_peers.py",
        "benchmarks/_solver_problems.py",
        CORE,
    output:
        RESULTS + "/solvers/result.json",
    params:
        out=RESULTS + "/solvers",
    shell:
        "{RUN} solvers --out {params.out} || {ACCEPT}"
