"""Tiny universal models of transformers."""

from transformers import (
    DetrConfig,
    EomtConfig,
    EomtDinov3Config,
    EomtImageProcessor,
    Mask2FormerConfig,
    Mask2FormerImageProcessor,
    MaskFormerConfig,
    OneFormerConfig,
    PreTrainedConfig,
    ResNetConfig,
    SwinConfig,
)

SIDE = 64


def config_of(model_type: str, num_labels: int = 4) -> PreTrainedConfig:
    """The config of a tiny model for pictures of 64x64."""
    backbone = SwinConfig(
        depths=[1] * 4,
        embed_dim=8,
        num_heads=[1, 1, 2, 2],
        window_size=4,
        image_size=SIDE,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    small = {"num_queries": 6, "num_labels": num_labels}
    plain = small | {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "num_blocks": 1,
        "num_register_tokens": 1,
        "intermediate_size": 16,
        "train_num_points": 64,
    }
    pixel_decoder = {"encoder_layers": 1, "encoder_feedforward_dim": 16, "train_num_points": 64}
    decoder = {"decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16, "hidden_dim": 32}
    if model_type == "mask2former":
        return Mask2FormerConfig(
            backbone_config=backbone, feature_size=32, mask_feature_size=32, **small, **pixel_decoder, **decoder
        )
    if model_type == "maskformer":
        detr = DetrConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_queries=6,
            backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4),
        )
        return MaskFormerConfig(
            backbone_config=backbone,
            fpn_feature_size=32,
            mask_feature_size=32,
            decoder_config=detr,
            num_labels=num_labels,
        )
    if model_type == "oneformer":
        return OneFormerConfig(
            backbone_config=backbone,
            is_training=False,
            conv_dim=32,
            mask_dim=32,
            task_seq_len=8,
            text_encoder_width=32,
            text_encoder_num_layers=1,
            text_encoder_context_length=8,
            text_encoder_vocab_size=99,
            text_encoder_n_ctx=2,
            **small,
            **pixel_decoder,
            **decoder | {"decoder_layers": 3},
        )
    return {"eomt": EomtConfig, "eomt_dinov3": EomtDinov3Config}[model_type](**plain)


def processor_of(model_type: str) -> Mask2FormerImageProcessor | EomtImageProcessor:
    """An image processor that goes with `config_of`; OneFormer's own reads files of the Hub, so it gets Mask2Former's."""
    if model_type.startswith("eomt"):
        return EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": None}, do_split_image=True)
    return Mask2FormerImageProcessor(size={"height": SIDE, "width": SIDE})
