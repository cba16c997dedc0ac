"""Time series: PhysioNet 2012, the shipped imputation model beside baselines and PyPOTS, and forecasts of public series."""

from pathlib import Path

BENCHMARKS += [name for name in ("imputation", "detection", "forecasting", "forecast_timegrad") if config["timeseries"][name]]


# The data itself stays in the user's cache; here is its record, with the SHA-256 of every table.
rule physionet2012:
    input:
        "datasets/physionet2012.py",
    output:
        RESULTS + "/data/physionet2012.json",
    params:
        source=f"--folder {config['timeseries']['source']}" if config["timeseries"]["source"] else "",
    shell:
        'folder=$({PYTHON} {input} {params.source} --sets a b) && cp "$folder/manifest.json" {output}'


rule imputation:
    input:
        "benchmarks/imputation.py",
        sorted(str(path) for path in Path("benchmarks").glob("_imputation_*.py")),
        [] if QUICK else RESULTS + "/data/physionet2012.json",
        sorted(str(path) for path in Path("scidiff/timeseries").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/imputation/result.json",
    params:
        out=RESULTS + "/imputation",
    shell:
        "{RUN} imputation --out {params.out} || {ACCEPT}"


rule detection:
    input:
        "benchmarks/detection.py",
        [] if QUICK else RESULTS + "/data/physionet2012.json",
        sorted(str(path) for path in Path("scidiff/timeseries").rglob("*") if path.suffix in {".py", ".safetensors"}),
    output:
        RESULTS + "/detection/result.json",
    params:
        out=RESULTS + "/detection",
    shell:
        "{RUN} detection --out {params.out} || {ACCEPT}"


rule forecasting:
    input:
        "benchmarks/forecasting.py",
        sorted(str(path) for path in Path("benchmarks").glob("_forecasting_*.py")),
        sorted(str(path) for path in Path("scidiff/timeseries").rglob("*.py")),
    output:
        RESULTS + "/forecasting/result.json",
    params:
        files=" ".join(f"--{name} {config['timeseries'][name]}" for name in ("traffic", "air") if config["timeseries"][name]),
        quick="--quick" * QUICK,
    shell:
        "{PYTHON} {input[0]} --seed {config[seed]} {params.quick} {params.files} --json {output} || {ACCEPT}"


rule forecast_timegrad:
    input:
        "benchmarks/forecast_timegrad.py",
        "benchmarks/_forecasting_data.py",
        sorted(str(path) for path in Path("scidiff/timeseries").rglob("*.py")),
    output:
        RESULTS + "/forecast_timegrad/result.json",
    params:
        data="" if config["timeseries"]["traffic"] else "--data electricity ridership",
        files=f"--traffic {config['timeseries']['traffic']}" if config["timeseries"]["traffic"] else "",
        quick="--quick" * QUICK,
    shell:
        "{PYTHON} {input[0]} --seed {config[seed]} {params.quick} {params.data} {params.files} --json {output} || {ACCEPT}"
