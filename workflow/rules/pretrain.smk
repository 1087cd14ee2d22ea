# One model from scratch per size, wiring and seed. A job that resumes or is retried appends to its log.


# `pretrain: {together: true}`: one process trains all models of a seed, as importing torch takes as long as a small one.
for seed, names in PLAN.together.items():

    rule:
        name:
            f"pretrain_{seed}"
        input:
            tracking=f"{R}/tracking.json",
            tokens=f"{R}/tokens/manifest.json",
            tokenizer=f"{R}/tokenizer/tokenizer.json",
        output:
            models=[directory(f"{R}/pretrain/{name}/model") for name in names],
            records=[f"{R}/pretrain/{name}/record.json" for name in names],
        log:
            f"{R}/logs/pretrain-{seed}.log",
        conda:
            "../../envs/pipeline.yaml"
        params:
            rows=[PLAN.pretrain[name]["row"] for name in names],
            commands=[
                f"pretrain {PLAN.pretrain[name]['model']} {PLAN.pretrain[name]['flags']} --tokens {R}/tokens "
                f"--tokenizer {R}/tokenizer --work {R}/work/pretrain-{name} --out {R}/pretrain/{name}/model "
                f"--run {RUN} --record {R}/pretrain/{name}/record.json"
                for name in names
            ],
        shell:
            "ladder together {params.commands:q} 2>> {log:q}"


rule pretrain:
    input:
        tracking=f"{R}/tracking.json",
        tokens=f"{R}/tokens/manifest.json",
        tokenizer=f"{R}/tokenizer/tokenizer.json",
    output:
        model=directory(f"{R}/pretrain/{{name}}/model"),
        record=f"{R}/pretrain/{{name}}/record.json",
    log:
        f"{R}/logs/pretrain-{{name}}.log",
    wildcard_constraints:
        name="(?!)" if PLAN.together else r"[A-Za-z0-9_.@,+-]+",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        **place("pretrain"),
    params:
        run=RUN,
        launch=of("pretrain", "launch"),
        model=of("pretrain", "model"),
        row=of("pretrain", "row"),
        flags=of("pretrain", "flags"),  # what the profile sets of ladder/train/options.py
        tokens=subpath(input.tokens, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        work=f"{R}/work/pretrain-{{name}}",
    shell:
        "{params.launch} pretrain {params.model} {params.flags} "
        "--tokens {params.tokens:q} --tokenizer {params.tokenizer:q} --work {params.work:q} "
        "--out {output.model:q} --run {params.run:q} --record {output.record:q} 2>> {log:q}"
