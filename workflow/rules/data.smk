# Tracking. Corpus -> tokenizer -> token shards; chat data and evaluation tasks from the same documents. A corpus of
# parts is gathered and packed by one job a part (corpus_part, tokens_part); corpus and tokens then join what they made.
CHAT = config["adapt"].get("chat", {"kind": "corpus"})


rule track:
    """The MLflow database exists before parallel jobs could race for it."""
    output:
        f"{R}/tracking.json",
    log:
        f"{R}/logs/track.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "ladder track --out {output:q} 2> {log:q}"


rule corpus_part:
    input:
        tracking=f"{R}/tracking.json",
        files=of("parts", "files"),
    output:
        manifest=f"{R}/corpus/parts/{{name}}/manifest.json",
        record=f"{R}/corpus/parts/{{name}}/record.json",
    log:
        f"{R}/logs/corpus-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        flags=of("parts", "flags"),
        out=subpath(output.record, parent=True),
    shell:
        "ladder corpus {params.flags} --out {params.out:q} --run {params.run:q} --record {output.record:q} 2> {log:q}"


rule corpus:
    input:
        tracking=f"{R}/tracking.json",
        files=PLAN.corpus["files"],
        parts=expand(f"{R}/corpus/parts/{{name}}/manifest.json", name=PLAN.parts),
    output:
        [f"{R}/corpus/{split}.jsonl" for split in PLAN.corpus["splits"]],
        manifest=f"{R}/corpus/manifest.json",
        record=f"{R}/corpus/record.json",
    log:
        f"{R}/logs/corpus.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        flags=PLAN.corpus["flags"],
        out=subpath(output.record, parent=True),
    shell:
        "ladder corpus {params.flags} --out {params.out:q} --run {params.run:q} --record {output.record:q} 2> {log:q}"


rule tokenizer:
    input:
        tracking=f"{R}/tracking.json",
        corpus=PLAN.tokenizer["files"],
    output:
        tokenizer=f"{R}/tokenizer/tokenizer.json",
        record=f"{R}/tokenizer/record.json",
    log:
        f"{R}/logs/tokenizer.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        flags=PLAN.tokenizer["flags"],
        out=subpath(output.record, parent=True),
    shell:
        "ladder tokenizer {params.flags} --out {params.out:q} --run {params.run:q} --record {output.record:q} 2> {log:q}"


rule tokens_part:
    input:
        tracking=f"{R}/tracking.json",
        corpus=f"{R}/corpus/parts/{{name}}/manifest.json",
        tokenizer=f"{R}/tokenizer/tokenizer.json",
    output:
        manifest=f"{R}/tokens/parts/{{name}}/manifest.json",
        record=f"{R}/tokens/parts/{{name}}/record.json",
    log:
        f"{R}/logs/tokens-{{name}}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        corpus=subpath(input.corpus, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        out=subpath(output.record, parent=True),
    shell:
        "ladder tokens --corpus {params.corpus:q} --tokenizer {params.tokenizer:q} --out {params.out:q} "
        "--run {params.run:q} --record {output.record:q} 2> {log:q}"


rule tokens:
    input:
        tracking=f"{R}/tracking.json",
        corpus=f"{R}/corpus/manifest.json",
        tokenizer=f"{R}/tokenizer/tokenizer.json",
        parts=expand(f"{R}/tokens/parts/{{name}}/manifest.json", name=PLAN.parts),
    output:
        manifest=f"{R}/tokens/manifest.json",
        record=f"{R}/tokens/record.json",
    log:
        f"{R}/logs/tokens.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        flags=PLAN.tokens["flags"],
        out=subpath(output.record, parent=True),
    shell:
        "ladder tokens {params.flags} --out {params.out:q} --run {params.run:q} --record {output.record:q} 2> {log:q}"


rule chat:
    input:
        tracking=f"{R}/tracking.json",
        corpus=f"{R}/corpus/manifest.json",
        files=CHAT.get("path", []),
    output:
        train=f"{R}/chat/train.jsonl",
        validation=f"{R}/chat/validation.jsonl",
        record=f"{R}/chat/record.json",
    log:
        f"{R}/logs/chat.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        flags=flags(CHAT),
        corpus=subpath(input.corpus, parent=True),
        out=subpath(output.record, parent=True),
    shell:
        "ladder chat {params.flags} --corpus {params.corpus:q} --out {params.out:q} "
        "--run {params.run:q} --record {output.record:q} 2> {log:q}"


rule tasks:
    input:
        tracking=f"{R}/tracking.json",
        corpus=f"{R}/corpus/manifest.json",
        tokenizer=f"{R}/tokenizer/tokenizer.json",
    output:
        [f"{R}/tasks/{task}.yaml" for task in ("heldout_perplexity", "cloze")],
        record=f"{R}/tasks/record.json",
    log:
        f"{R}/logs/tasks.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        run=RUN,
        documents=config["evaluate"].get("perplexity_documents", 1000),
        questions=config["evaluate"].get("cloze_questions", 2000),
        characters=config["evaluate"].get("perplexity_characters", 4000),
        corpus=subpath(input.corpus, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        out=subpath(output.record, parent=True),
    shell:
        "ladder tasks --corpus {params.corpus:q} --tokenizer {params.tokenizer:q} --documents {params.documents:q} "
        "--questions {params.questions:q} --characters {params.characters} --out {params.out:q} "
        "--run {params.run:q} --record {output.record:q} 2> {log:q}"


rule fetch:
    """The data sets of lm-eval's tasks, in the profile's folder of them: where there is a network, before a run
    elsewhere. `snakemake --cores 1 fetch`"""
    log:
        f"{R}/logs/fetch.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        tasks=PLAN.stock,
        out=config["evaluate"].get("data", "data"),
    shell:
        "HF_HUB_OFFLINE=0 HF_DATASETS_OFFLINE=0 ladder fetch {params.tasks:q} --out {params.out:q} 2> {log:q}"
