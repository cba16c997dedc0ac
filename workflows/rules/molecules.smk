"""Molecules: MOSES, and the shipped model judged by its metrics."""

from pathlib import Path

if config["molecules"]["moses"]:
    BENCHMARKS.append("molecules_moses")


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
