"""Molecules: MOSES, and the shipped model judged by its metrics."""

from pathlib import Path

if config["molecules"]["moses"]:
    BENCHMARKS.append("molecules_moses")
if config["molecules"]["representation"]:
    BENCHMARKS.append("molecules_representation")


# The data itself stays in the user's cache; here is its record, with the SHA-256 of every file.
rule moses:
    input:
        "datasets/moses.py",
    output:
        RESULTS + "/data/moses.json",
    params:
        source=f"--from {config['molecules']['source']}" if config["molecules"]["source"] else "",
    shell:
        'folder=$({PYTHON} {input} {params.source}) && cp "$folder/manifest.json" {output}'


rule molecules_moses:
    input:
        "benchmarks/molecules_moses.py",
        [] if QUICK else RESULTS + "/data/moses.json",
        sorted(str(path) for path in Path("scidiff/molecules").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/molecules_moses/result.json",
    params:
        out=RESULTS + "/molecules_moses",
    shell:
        "{RUN} molecules_moses --out {params.out} || {ACCEPT}"


# All contestants are trained anew: the shipped weights do not matter here.
rule molecules_representation:
    input:
        "benchmarks/molecules_representation.py",
        "benchmarks/molecules_moses.py",
        [] if QUICK else RESULTS + "/data/moses.json",
        [f"scidiff/molecules/{name}.py" for name in ("fragments", "grammar", "vocabulary", "evaluation", "fcd")],
        ["scidiff/networks/transformer.py", "scidiff/processes/counted.py", "scidiff/constraints/automaton.py"],
        sorted(str(path) for path in Path("scidiff/training").glob("*.py")),
    output:
        RESULTS + "/molecules_representation/result.json",
    params:
        out=RESULTS + "/molecules_representation",
    shell:
        "{RUN} molecules_representation --out {params.out}"
