# One process evaluates a group of checkpoints: lm-eval's start costs more than a small evaluation. Each checkpoint has
# its own record, which is kept while its inputs stay the same; the group's output is the list of their digests.


rule evaluate:
    input:
        tracking=f"{R}/tracking.json",
        tasks=f"{R}/tasks/record.json",
        checkpoints=of("evaluate", "paths"),
    output:
        digests=f"{R}/evaluate/{{name}}.sha256",
    log:
        f"{R}/logs/evaluate-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        gpu=int(config["device"] == "cuda"),
    params:
        run=RUN,
        flags=of("evaluate", "flags"),
        names=of("evaluate", "names"),
        records=of("evaluate", "records"),
        tasks=subpath(input.tasks, parent=True),
        out=subpath(output.digests, strip_suffix=".sha256"),
    shell:
        "ladder evaluate {input.checkpoints:q} --names {params.names:q} --tasks {params.tasks:q} {params.flags} "
        "--out {params.out:q} --run {params.run:q} 2> {log:q} && sha256sum {params.records:q} > {output.digests:q}"
