"""Profiles: a few steps of each arm under torch.profiler, in a job of its own. Nothing else reads them."""

PROFILE = f"{OUT}/profiles/{{dataset}}/{{model}}/{{arm}}"
PROFILE_FILES = [
    "engines.csv",
    "operators.csv",
    "kernels.csv",
    "memory.csv",
    "env.json",
]
PROFILE_SHOWN = ["operators.md", "memory.svg", "memory.pdf", "memory.png"]
PROFILED = {
    "dataset": GRID["dataset"],
    "model": GRID["model"],
    "arm": EXPERIMENT.profiles.arms,
}


localrules:
    profiles,


rule profile:
    input:
        tokens=f"{OUT}/tokens/{{dataset}}/{{model}}.npz",
        model=f"{OUT}/models/{{model}}.json",
    output:
        # The traces beside them are not declared: an engine that cannot do the steps has none.
        expand(f"{PROFILE}/{{name}}", name=PROFILE_FILES, allow_missing=True),
    log:
        f"{OUT}/logs/profile/{{dataset}}/{{model}}/{{arm}}.log",
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        # One: an arm whose runs have several has no profile.
        gpu=int(EXPERIMENT.training.device == "cuda"),
    params:
        script=script("profile_arm.py"),
        code=lambda w: code("profile_arm.py"),
        # No rate: time and memory do not depend on it, and nothing is tuned for a profile.
        settings=lambda w: json.dumps(
            EXPERIMENT.run_settings(w.dataset, w.model, w.arm).to_dict()
            | {"learning_rate": None}
        ),
        model=subpath(input.model, strip_suffix=".json"),
        folder=PROFILE,
        seed=GRID["seed"][0],
        engines=EXPERIMENT.profiles.engines,
        steps=EXPERIMENT.profiles.steps,
        warmup_steps=EXPERIMENT.profiles.warmup_steps,
        timed_steps=EXPERIMENT.profiles.timed_steps,
    shell:
        # exec: no shell stands between a signal and the process.
        "exec python {params.script:q} --settings {params.settings:q} --seed {params.seed}"
        " --engines {params.engines} --steps {params.steps} --warmup-steps {params.warmup_steps}"
        " --timed-steps {params.timed_steps} --tokens {input.tokens:q} --model {params.model:q}"
        " --threads {threads} --output-dir {params.folder:q} 2> {log:q}"


rule profiles:
    input:
        profiles=expand(f"{PROFILE}/{{name}}", name=PROFILE_FILES, **PROFILED),
    output:
        expand(f"{OUT}/profiles/index.{{kind}}", kind=["csv", "md"]),
        expand(f"{PROFILE}/{{name}}", name=PROFILE_SHOWN, **PROFILED),
    log:
        f"{OUT}/logs/profiles.log",
    conda:
        "../envs/environment.yaml"
    params:
        script=script("make_profiles.py"),
        code=lambda w: code("make_profiles.py"),
        folder=subpath(output[0], parent=True),
        grid=json.dumps(PROFILED),
    shell:
        "python {params.script:q} --profiles-dir {params.folder:q} --grid {params.grid:q} 2> {log:q}"
