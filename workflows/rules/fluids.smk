"""Fluids: Kolmogorov flow, simulated, and the shipped model beside kriging and others."""

from pathlib import Path

BENCHMARKS += ["fluids"] if config["fluids"]["reconstruction"] else []
BENCHMARKS += ["flow_equations"] if config["fluids"]["equations"] else []


# The data stays in the user's cache; here is its record, with the SHA-256.
rule kolmogorov:
    input:
        "datasets/kolmogorov.py",
    output:
        RESULTS + "/data/kolmogorov.json",
    shell:
        'folder=$({PYTHON} {input}) && cp "$folder/manifest.json" {output}'


rule fluids:
    input:
        "benchmarks/fluids.py",
        [] if QUICK else RESULTS + "/data/kolmogorov.json",
        sorted(str(path) for path in Path("scidiff/fluids").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/fluids/result.json",
    params:
        out=RESULTS + "/fluids",
    shell:
        "{RUN} fluids --out {params.out} || {ACCEPT}"


rule flow_equations:
    input:
        "benchmarks/flow_equations.py",
        sorted(str(path) for path in Path("scidiff/fluids").glob("*.py")),
    output:
        RESULTS + "/flow_equations/result.json",
    params:
        out=RESULTS + "/flow_equations",
    shell:
        "{RUN} flow_equations --out {params.out} || {ACCEPT}"
