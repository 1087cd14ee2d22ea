# One model from scratch per size, wiring and seed. A job that resumes or is retried appends to its log.


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
