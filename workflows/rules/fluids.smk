"""Fluids: Kolmogorov flow, simulated, and winds, fetched; the shipped models beside kriging and others."""

from pathlib import Path

BENCHMARKS += ["fluids"] if config["fluids"]["reconstruction"] else []
BENCHMARKS += ["wind_stations"] if config["fluids"]["winds"] else []
BENCHMARKS += ["fluids_constraints"] if config["fluids"]["constraints"] else []
BENCHMARKS += ["flow_equations"] if config["fluids"]["equations"] else []
BENCHMARKS += ["fluid_trajectories"] if config["fluids"]["trajectories"] else []
BENCHMARKS += ["flow_inversion"] if config["fluids"]["inversion"] else []
BENCHMARKS += ["flow_assimilation"] if config["fluids"]["assimilation"] else []
BENCHMARKS += ["flow_told"] if config["fluids"]["told"] else []
BENCHMARKS += ["fluids_rollout"] if config["fluids"]["rollout"] and not QUICK else []  # there is no quick training
BENCHMARKS += ["fluids_pde"] if config["fluids"]["pairs"] else []


FLUIDS = sorted(str(path) for path in Path("scidiff/fluids").rglob("*") if path.suffix in {".py", ".safetensors"})


# The data stays in the user's cache; here are their records, with the SHA-256.
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
        FLUIDS,
    output:
        RESULTS + "/fluids/result.json",
    params:
        out=RESULTS + "/fluids",
    shell:
        "{RUN} fluids --out {params.out} || {ACCEPT}"


rule winds:
    input:
        "datasets/winds.py",
    output:
        RESULTS + "/data/winds.txt",
    shell:
        "sha256sum $({PYTHON} {input}) > {output}"


rule wind_stations:
    input:
        "benchmarks/wind_stations.py",
        [] if QUICK else RESULTS + "/data/winds.txt",
        FLUIDS,
    output:
        RESULTS + "/wind_stations/result.json",
    params:
        out=RESULTS + "/wind_stations",
    shell:
        "{RUN} wind_stations --out {params.out} || {ACCEPT}"


rule fluids_constraints:
    input:
        "benchmarks/fluids_constraints.py",
        [] if QUICK else RESULTS + "/data/kolmogorov.json",
        FLUIDS,
    output:
        RESULTS + "/fluids_constraints/result.json",
    params:
        out=RESULTS + "/fluids_constraints",
    shell:
        "{RUN} fluids_constraints --out {params.out} || {ACCEPT}"


rule fluid_trajectories:
    input:
        "benchmarks/fluid_trajectories.py",
        sorted(str(path) for path in Path("scidiff/fluids").glob("*.py")),
    output:
        RESULTS + "/fluid_trajectories/result.json",
    params:
        out=RESULTS + "/fluid_trajectories",
    shell:
        "{RUN} fluid_trajectories --out {params.out} || {ACCEPT}"


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


rule flow_inversion:
    input:
        "benchmarks/flow_inversion.py",
        [] if QUICK else RESULTS + "/data/kolmogorov.json",
        FLUIDS,
    output:
        RESULTS + "/flow_inversion/result.json",
    params:
        out=RESULTS + "/flow_inversion",
    shell:
        "{RUN} flow_inversion --out {params.out} || {ACCEPT}"


rule flow_assimilation:
    input:
        "benchmarks/flow_assimilation.py",
        [] if QUICK else RESULTS + "/data/kolmogorov.json",
        FLUIDS,
    output:
        RESULTS + "/flow_assimilation/result.json",
    params:
        out=RESULTS + "/flow_assimilation",
    shell:
        "{RUN} flow_assimilation --out {params.out} || {ACCEPT}"


rule flow_told:
    input:
        "benchmarks/flow_told.py",
        FLUIDS,
    output:
        RESULTS + "/flow_told/result.json",
    params:
        out=RESULTS + "/flow_told",
    shell:
        "{RUN} flow_told --out {params.out} || {ACCEPT}"


# The network that the packaged one is compared to: of its size, and as long trained.
rule transition_mean:
    input:
        "workflows/train_transition.py",
        RESULTS + "/data/kolmogorov.json",
    output:
        directory(RESULTS + "/transition_mean"),
    shell:
        "{PYTHON} {input[0]} --mean --minutes 8 --threads 1 --seed {config[seed]} --out {output}"


rule fluids_rollout:
    input:
        "benchmarks/fluids_rollout.py",
        RESULTS + "/transition_mean",
        FLUIDS,
    output:
        RESULTS + "/fluids_rollout/result.json",
    params:
        packaged="scidiff/fluids/weights/kolmogorov-step",
    shell:
        "{PYTHON} {input[0]} --seed {config[seed]} --model {params.packaged} --mean {input[1]}/model --json {output} || {ACCEPT}"


rule equations:
    input:
        "datasets/equations.py",
    output:
        RESULTS + "/data/equations-{name}.json",
    shell:
        'folder=$({PYTHON} {input} {wildcards.name}) && cp "$folder/manifest.json" {output}'


rule pairs_darcy:
    input:
        "workflows/train_pairs.py",
        RESULTS + "/data/equations-darcy.json",
    output:
        directory(RESULTS + "/pairs_darcy"),
    shell:
        "{PYTHON} {input[0]} darcy --minutes 9 --batch 16 --threads 1 --seed {config[seed]} --out {output}"


rule fluids_pde:
    input:
        "benchmarks/fluids_pde.py",
        [] if QUICK else [RESULTS + "/pairs_darcy", *expand(RESULTS + "/data/equations-{name}.json", name=["poisson", "navier-stokes"])],
        FLUIDS,
    output:
        RESULTS + "/fluids_pde/result.json",
    params:
        weights="--quick" if QUICK else f"--model darcy={RESULTS}/pairs_darcy/model",
    shell:
        "{PYTHON} {input[0]} --seed {config[seed]} {params.weights} --json {output} || {ACCEPT}"
