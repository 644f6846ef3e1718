"""Writes a checkpoint from which a large policy is trained: OpenVLA-OFT with adapters, or SmolVLM.

The agents and `srpo-env evaluate` take it as `--checkpoint`. A checkpoint of OpenVLA-OFT holds the
adapters only, and names the published weights; one of SmolVLM holds all weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.cli.output_files import check_output_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``srpo-env prepare-policy``."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    kinds = parser.add_subparsers(dest="architecture", required=True, metavar="ARCHITECTURE")
    openvla = kinds.add_parser(
        "openvla-oft",
        help="OpenVLA-OFT with discrete tokens, trained through adapters",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_common_arguments(openvla, "Haozhan72/Openvla-oft-SFT-libero-object-traj1", batch_size=8)
    openvla.add_argument("--lora-rank", type=int, default=32, help="rank of the adapters")
    openvla.add_argument(
        "--lora-alpha", type=float, default=16.0, help="adapters are scaled by alpha / rank"
    )
    openvla.add_argument(
        "--lora-targets",
        choices=("language", "all"),
        default="language",
        help="layers that get adapters: those of the language model, or all",
    )
    openvla.add_argument(
        "--four-bit",
        action="store_true",
        help="store the layers of the language model in 4 bits; needs bitsandbytes",
    )
    openvla.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="data type of the frozen weights",
    )
    openvla.add_argument(
        "--statistics",
        metavar="CHECKPOINT",
        default=argparse.SUPPRESS,
        help="other checkpoint, a folder or an id of the hub, to take dataset_statistics.json "
        "from; by default, the checkpoint's own, else those of moojink's checkpoint of the suite",
    )
    openvla.add_argument(
        "--data-set",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="data set in the statistics, such as libero_object_no_noops",
    )
    smolvlm = kinds.add_parser(
        "smolvlm",
        help="SmolVLM, with a new action head; to be cloned first",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_common_arguments(smolvlm, "HuggingFaceTB/SmolVLM-256M-Instruct", batch_size=16)
    smolvlm.add_argument(
        "--image-size", type=int, default=512, help="size to which images are enlarged, in pixels"
    )
    smolvlm.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute layers again in the backward pass, which takes less memory",
    )


def _add_common_arguments(parser: argparse.ArgumentParser, example: str, batch_size: int) -> None:
    parser.add_argument(
        "published", help=f"folder, or id of the Hugging Face hub, such as {example}"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder and name of the checkpoint to write"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        help="decisions that are computed at once; limits the memory, and changes no result",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the weights that are new"
    )


def run(args: argparse.Namespace) -> int:
    """Loads the published weights, adds what is new, and writes the checkpoint."""
    import torch

    from srpo_env.policy.base import Policy
    from srpo_env.policy.loading import architecture

    header = args.out.with_name(f"{args.out.name}.json")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_output_file(header)  # before minutes of loading
    torch.manual_seed(args.seed)
    policy_class = architecture(args.architecture)
    policy: Policy
    if args.architecture == "openvla-oft":
        from srpo_env.policy.adapters import LoraSettings

        policy = policy_class.from_pretrained(
            args.published,
            lora=LoraSettings(args.lora_rank, args.lora_alpha, args.lora_targets),
            statistics=getattr(args, "statistics", None),
            data_set=getattr(args, "data_set", None),
            dtype=args.dtype,
            four_bit=args.four_bit,
            batch_size=args.batch_size,
        )
    else:
        policy = policy_class.from_pretrained(
            args.published,
            image_size=args.image_size,
            batch_size=args.batch_size,
            gradient_checkpointing=args.gradient_checkpointing,
        )
    policy.save(args.out, {"published": str(args.published), "seed": args.seed})
    trained = sum(value.numel() for value in policy.parameters() if value.requires_grad)
    total = sum(value.numel() for value in policy.parameters())
    print(f"{args.out}: {total / 1e6:.1f} million parameters, of which {trained / 1e6:.1f} trained")
    return 0
