"""Molecules: MOSES, and the shipped model judged by its metrics."""

from pathlib import Path

BENCHMARKS += [f"molecules_{name}" for name in config["molecules"]["benchmarks"]]
BENCHMARKS += [
    f"molecules3d{name}" for name in ("", "_generation", "_scaling", "_conditional", "_pockets", "_joint") if config["molecules"]["conformers"]
]


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


# Of the shipped weights.
rule molecules:
    input:
        "benchmarks/{name}.py",
        [] if QUICK else RESULTS + "/data/moses.json",
        sorted(str(path) for path in Path("scidiff/molecules").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/{name}/result.json",
    wildcard_constraints:
        name="molecules_(moses|steps|constraints|fragments|optimise|exactness)",
    params:
        out=lambda wildcards: f"{RESULTS}/{wildcards.name}",
    shell:
        "{RUN} {wildcards.name} --out {params.out} || {ACCEPT}"


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


rule qm9:
    input:
        "datasets/qm9.py",
        "datasets/moses.py",
    output:
        RESULTS + "/data/qm9.json",
    shell:
        'folder=$({PYTHON} {input[0]}) && cp "$folder/manifest.json" {output}'


# Of the shipped weights.
rule molecules3d:
    input:
        "benchmarks/{name}.py",
        RESULTS + "/data/qm9.json",
        sorted(str(path) for path in Path("scidiff/molecules/three_d").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/{name}/result.json",
    wildcard_constraints:
        name="molecules3d(_generation|_scaling|_conditional|_pockets|_joint)?",
    params:
        out=lambda wildcards: f"{RESULTS}/{wildcards.name}",
    shell:
        "{RUN} {wildcards.name} --out {params.out} || {ACCEPT}"


# Of the shipped weights.
rule molecules_qm9:
    input:
        "benchmarks/molecules_qm9.py",
        RESULTS + "/data/qm9.json",
        sorted(str(path) for path in Path("scidiff/molecules").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/molecules_qm9/result.json",
    params:
        out=RESULTS + "/molecules_qm9",
    shell:
        "{RUN} molecules_qm9 --out {params.out} || {ACCEPT}"
