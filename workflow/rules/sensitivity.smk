# Which layers of the original are free to convert, for which wiring: asked before any finetuning.


rule sensitivity:
    input:
        of("sensitivity", "files"),  # nothing where the original comes from the hub
        tracking=f"{R}/tracking.json",
        text=f"{R}/corpus/test.jsonl",
    output:
        record=f"{R}/sensitivity/{{name}}/record.json",
    log:
        f"{R}/logs/sensitivity-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        gpu=int(config["device"] == "cuda"),
    params:
        run=RUN,
        source=of("sensitivity", "source"),
        flags=of("sensitivity", "flags"),
    shell:
        "ladder sensitivity {params.source:q} --text {input.text:q} {params.flags} "
        "--run {params.run:q} --record {output.record:q} > {log:q} 2>&1"
