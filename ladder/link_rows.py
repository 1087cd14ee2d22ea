"""Further rows of ladder.links.LINKS: PCIe with peer-to-peer, desks, older and other nodes. Name, words, latency_us,
bus_bandwidth, and where latency and bandwidth are from."""

SPARK = "github.com/NVIDIA/dgx-spark-playbooks/pull/103"
ROCENANTE = "github.com/local-inference-lab/b12x/pull/295"
SPARK_BYTES = (
    "published: 161 Gb/s between two with both halves of the port (github.com/tonyd2wild/DeepSeek-v4-Flash-Vision-Exp-"
    f"DSpark-1M-NVFP4-KV-2x-DGX-Spark/pull/35); with one half 98, and 24 GB/s of an all-gather in {SPARK}"
)

ROWS = (
    (
        "dgx-spark-roce",
        "DGX Spark (GB10), one GPU a machine, 200 Gb/s RoCE, NCCL",
        {2: 31.0, 4: 55.0},
        20.1e9,
        f"published: 30-35 us for 8 to 16 KB on two ({SPARK}); 59 us for 48 KB on four ({ROCENANTE}), less its bytes",
        SPARK_BYTES,
    ),
    (
        "dgx-spark-one-shot",
        "DGX Spark (GB10), one GPU a machine, 200 Gb/s RoCE, one-shot kernel (RoCEnante)",
        {4: 19.5},
        20.1e9,
        f"published: 23 us for 48 KB on four, where NCCL took 59 ({ROCENANTE}), less its bytes",
        SPARK_BYTES,
    ),
    (
        "pcie5-p2p",
        "PCIe 5 with peer-to-peer (RTX PRO 6000; RTX 5090 with a patched driver), one node, one-shot kernel of vLLM",
        {4: 44.6},
        56e9,
        "published: 49 us for 164 KB on 4 RTX PRO 6000 (github.com/vllm-project/vllm/issues/56126), less its bytes; of "
        "fewer bytes no time was found, and they may take less",
        "published: the link of the same machine (github.com/vllm-project/vllm/issues/56126), which is a bound",
    ),
    (
        "pcie4-p2p",
        "PCIe 4 with peer-to-peer (RTX 4090 with a patched driver), one node, NCCL",
        {4: 14.5},
        24.7e9,
        "assumed: as 4 RTX A5000, 13-16 us for 8 B (github.com/NVIDIA/nccl/issues/757)",
        "published: 32 MiB on 4 and 5 RTX 4090 with the patched driver (github.com/tinygrad/open-gpu-kernel-modules/"
        "issues/17)",
    ),
    (
        "thunderbolt5",
        "Macs over Thunderbolt 5, RDMA",
        {2: 25.0},
        9.07e9,
        "published: 25.5 us for 4 KB on two M4 Pro (github.com/omar-karray/mlx-jaccl-cluster), less its bytes; TCP "
        "takes about ten times as long",
        "published: 16 MiB on two (github.com/pytorch/pytorch/pull/181087)",
    ),
    (
        "v100-nvlink",
        "V100 SXM2, NVLink 2, one node, NCCL",
        {8: 39.0},
        120e9,
        "published: 8 V100 in decode, 32 with another kernel (github.com/1CatAI/1Cat-vLLM/pull/170)",
        "assumed: 0.8 of the 150 GB/s of its six links, the share that NCCL's authors name for NVLink 4 "
        "(github.com/NVIDIA/nccl-tests/issues/212)",
    ),
    (
        "mi350x-xgmi",
        "MI350X and MI355X, Infinity Fabric between every two, one node of 8, custom kernel of vLLM",
        {2: 4.3, 4: 5.2, 8: 6.3},
        385e9,
        "published: 6.3-6.7 us for 24 to 48 KB with 8 MI355X (github.com/vllm-project/vllm/pull/39080); assumed for "
        "fewer: as the same kernel's share on H100 (nvlink-one-shot)",
        "assumed: at least that of two nodes (roce-400g); the kernel reached 214 at 1.5 MB",
    ),
)
