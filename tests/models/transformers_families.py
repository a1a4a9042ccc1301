"""Every encoder of transformers that builds from a small configuration: what padding does with ESP attention in it.

``python tests/models/transformers_families.py`` tries every type of model and writes the record of docs/models.md. An
item that is padded must give what it gives alone, or the model is refused, by name and with the reason.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from espref.nn import register_with_transformers, set_encoder_attention

sys.path.insert(0, str(Path(__file__).parent.parent))

SUITE = "transformers"
TARGET = "padded equals alone to 1e-4, or refused"
TOLERANCE = 1e-4
NAME = "esp-families"
EXACT, REFUSED, OWN, SKIPPED = "exact", "refused", "the model's own", "skipped"

#: Sizes by which a configuration becomes small, wherever it has numbers of these names.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "emb_dim", "n_embd", "embed_dim", "projection_dim"), 32),
    **dict.fromkeys(("embedding_size", "encoder_hidden_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layers", "n_layer"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("n_heads", "n_head", "num_key_value_heads"), 4),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim", "n_inner"), 48),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size"), 8),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0),
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "image_size": 32,
    "patch_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
#: What some types need beside.
MORE = {
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "canine": {"local_attention_window": 8, "upsampling_kernel_size": 3, "num_hash_buckets": 60},
    "esm": {"vocab_size": 60, "pad_token_id": 0, "mask_token_id": 3},
    "squeezebert": {"hidden_size": 32, "embedding_size": 32, "intermediate_size": 48},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
}
#: Sound: norms over time would mix padding in, whatever the attention is.
WAVES = ("data2vec-audio", "hubert", "omniasr_audio", "sew", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
MORE |= {key: {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "mask_time_prob": 0.0} for key in WAVES}
MORE |= {key: {"max_source_positions": 16} for key in ("whisper", "qwen2_audio_encoder")}
CAUSAL = "causal: a doubly stochastic triangular matrix is the identity"
MOST_PARAMETERS = 30_000_000


class Outcome(NamedTuple):
    """What ESP attention does in the encoder of one type of model."""

    result: str  # EXACT, REFUSED, OWN or SKIPPED
    detail: str


def shrunk(config: Any, more: dict[str, Any]) -> Any:
    """The configuration and those within it, with small sizes."""
    for name, size in (SIZES | more).items():
        with contextlib.suppress(Exception):  # a configuration may check what it is given
            if name in more or type(getattr(config, name, None)) in (int, float):
                setattr(config, name, size)
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            shrunk(getattr(config, name), more)
    return config


@contextlib.contextmanager
def quiet():
    """What models print and warn about themselves is not ours."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(50)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def built(kind: str) -> nn.Module | None:
    """A small model of that type with random weights, or None."""
    with quiet():
        try:
            config = shrunk(CONFIG_MAPPING[kind](), MORE.get(kind, {}))
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
            if size > MOST_PARAMETERS:
                return None
            torch.manual_seed(0)
            model = AutoModel.from_config(config).eval()
            for parameter in model.parameters():  # a bias that is zero would not be seen
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.1)
            return model
        except Exception:  # whatever a configuration of these sizes runs into
            return None


def encoder(model: nn.Module) -> nn.Module:
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def inputs(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """Two items, the second of which is padded, and the second alone; None where the model takes no mask."""
    torch.manual_seed(0)
    name = getattr(model, "main_input_name", "input_ids")
    if name == "input_ids":
        ids, keep = torch.randint(5, 50, (2, 12)), torch.arange(12) < torch.tensor([[12], [7]])
        batch = {"input_ids": ids * keep, "attention_mask": keep.long()}
        return batch, {name: x[1:, :7] for name, x in batch.items()}
    if name == "pixel_values":
        size = getattr(model.config, "image_size", 32)
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(2, getattr(model.config, "num_channels", 3), height, width)
        return {"pixel_values": pixels}, {"pixel_values": pixels[1:]}
    if name == "input_values":
        sound, keep = torch.randn(2, 8000), torch.arange(8000) < torch.tensor([[8000], [5000]])
        batch = {"input_values": sound * keep, "attention_mask": keep.long()}
        return batch, {name: x[1:, :5000] for name, x in batch.items()}
    if name == "input_features":
        mels = getattr(model.config, "num_mel_bins", 80)
        features = torch.randn(2, mels, 2 * getattr(model.config, "max_source_positions", 20))
        return {"input_features": features}, {"input_features": features[1:]}
    raise NotImplementedError(name)


def output(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The hidden states of the encoder."""
    with quiet(), torch.no_grad():
        result = encoder(model)(**batch)
    return result.last_hidden_state


def error_of(model: nn.Module) -> float:
    """How far the second item is from what it is alone, relative to its largest number."""
    batch, alone = inputs(encoder(model))
    both, one = output(model, batch)[1], output(model, alone)[0]
    if both.shape != one.shape:
        both = both[: len(one)]
    return float((both - one).abs().max() / one.abs().max())


def outcome(kind: str) -> Outcome | None:
    """None where there is no such encoder: it does not build, or run, with these sizes and inputs."""
    model = built(kind)
    if model is None:
        return None
    try:
        own = error_of(model)
    except Exception as error:  # of the model, with its own attention
        return Outcome(SKIPPED, repr(error)[:80])
    calls: list[int] = []
    try:
        set_encoder_attention(model, NAME)
        with counted(calls):
            error = error_of(model)
    except ValueError as refusal:
        if "got no attention" in str(refusal):
            return None
        return Outcome(REFUSED, CAUSAL if "is_causal" in str(refusal) else str(refusal))
    if not calls:
        return Outcome("differs", "the registered function was never called")
    if error <= TOLERANCE:
        return Outcome(EXACT, f"largest difference {error:.1e}")
    if own > TOLERANCE:
        return Outcome(OWN, "padding reaches other tokens in the model itself, whatever its attention is")
    return Outcome("differs", f"{error:.1e}, with its own attention {own:.1e}")


@contextlib.contextmanager
def counted(calls: list[int]):
    """The registered function, and how often it is called."""
    from transformers import AttentionInterface

    mapping = AttentionInterface._global_mapping
    function = mapping[NAME]

    def wrapper(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return function(*arguments, **options)

    mapping[NAME] = wrapper
    try:
        yield
    finally:
        mapping[NAME] = function


def main() -> int:
    """Write the record; exit code 1 if a model differs."""
    import records as tests_records

    from espref.benchmarks import records

    register_with_transformers(NAME)
    rows = []
    for kind in sys.argv[1:] or sorted(MODEL_MAPPING_NAMES):
        found = outcome(kind)
        print(kind, *(found or ("not built",)), flush=True)
        if found is None or found.result == SKIPPED:
            continue
        ok = {EXACT: True, "differs": False}.get(found.result)
        made = tests_records.row(SUITE, kind, float(ok is True), "exact", TARGET, ok, f"{found.result}. {found.detail}")
        rows.append(made | {"environment": made["environment"] | {"transformers": transformers.__version__}})
    if sys.argv[1:]:
        return 0
    records.write(records.FOLDER / "models-transformers.json", {"rows": rows})
    return int(any(made["ok"] is False for made in rows))


if __name__ == "__main__":
    sys.exit(main())
