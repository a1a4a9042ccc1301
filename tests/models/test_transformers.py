"""transformers: the record of docs/models.md holds, and the registered function refuses what it cannot do."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'espref[torch]'")
transformers = pytest.importorskip("transformers", reason="run by make models")
import transformers_families as families  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel  # noqa: E402

from espref.benchmarks import records  # noqa: E402
from espref.nn import register_with_transformers, set_encoder_attention  # noqa: E402
from espref.nn.functional import esp_attention  # noqa: E402

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "vocab_size": 30,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
ROWS = {row["name"]: row for row in records.committed("models-transformers")["models-transformers"]["rows"]}


@pytest.fixture(autouse=True)
def registered():
    register_with_transformers("esp")
    register_with_transformers(families.NAME)
    with families.quiet():
        yield


def bert(attention: str = "esp", **options: object) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(**SIZE, initializer_range=0.5, attn_implementation=attention, **options)
    return BertModel(config).eval()


def test_no_encoder_differs() -> None:
    """In the record, each is exact, or refused, or mixes padding in by itself."""
    assert not [name for name, row in ROWS.items() if row["ok"] is False]
    assert {row["environment"]["transformers"] for row in ROWS.values()} == {transformers.__version__}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if families.CAUSAL not in row["detail"]])
def test_outcome_is_the_recorded_one(name: str) -> None:
    """Encoders and models that are refused for another reason than that they are causal, one by one."""
    found = families.outcome(name)
    assert found is not None
    if ROWS[name]["ok"]:
        assert found.result == families.EXACT
    else:
        assert f"{found.result}. {found.detail}" == ROWS[name]["detail"]


def test_padding_counts_for_queries() -> None:
    """A shorter item gives what it gives alone, with every kind of sort; the mask is not ignored."""
    tokens, keep = torch.randint(1, 30, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    for sort in ("soft", "balanced", "hard"):
        register_with_transformers(f"esp-{sort}", tau=0.2, sort=sort)
        model = bert(f"esp-{sort}")
        with torch.no_grad():
            both = model(tokens, attention_mask=keep).last_hidden_state
            alone = model(tokens[1:, :4]).last_hidden_state
            unmasked = model(tokens).last_hidden_state
        torch.testing.assert_close(both[1, :4], alone[0], rtol=0, atol=1e-5)
        assert (both - unmasked)[1, :4].abs().max() > 1e-3


def test_attentions_come_back() -> None:
    """One matrix of each layer when they are asked for, rows of sum 1, columns of padding 0; else none."""
    register_with_transformers("esp-balanced", tau=0.2, sort="balanced")
    model, tokens = bert("esp-balanced"), torch.randint(1, 30, (2, 5))
    keep = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    attentions = model(tokens, attention_mask=keep, output_attentions=True).attentions
    assert [matrix.shape for matrix in attentions] == [(2, 2, 5, 5)] * 2
    torch.testing.assert_close(attentions[0][1, :, :3].sum(-1), torch.ones(2, 3))
    assert attentions[0][1, :, :, 3:].abs().max() == 0
    assert not model(tokens).attentions


def causal() -> nn.Module:
    size = {"vocab_size": 30, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(**size, attn_implementation="esp")).eval()


@pytest.mark.parametrize("length", [1, 5])
def test_causal_models_are_refused(length: int) -> None:
    """At one token too, where a causal mask is none: every step of a generation."""
    tokens = torch.randint(3, 30, (1, length))
    for call in (lambda: causal()(tokens), lambda: causal().generate(tokens, max_new_tokens=2, do_sample=False)):
        with pytest.raises(ValueError, match=r"^is_causal: expected an encoder, got GPT2Attention"):
            call()
    with pytest.raises(ValueError, match=r"^is_causal"):
        bert(is_decoder=True)(tokens)


@pytest.mark.parametrize("kind", ["BartModel", "MarianModel", "PegasusModel", "M2M100Model"])
def test_esp_in_the_encoder_alone(kind: str) -> None:
    """The decoder keeps its attention, cached generation included; switched as a whole, it refuses one query too."""
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SEQ2SEQ)).eval()
    tokens, own = torch.randint(3, 30, (2, 6)), model.config._attn_implementation
    keep = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    before = model(tokens, attention_mask=keep, decoder_input_ids=tokens[:, :3])
    set_encoder_attention(model)
    after = model(tokens, attention_mask=keep, decoder_input_ids=tokens[:, :3])
    assert (after.encoder_last_hidden_state - before.encoder_last_hidden_state)[1, :4].abs().max() > 1e-5
    assert model.config._attn_implementation == model.get_decoder().config._attn_implementation == own
    states = before.encoder_last_hidden_state
    decoded = model.get_decoder()(input_ids=tokens[:, :3], encoder_hidden_states=states, encoder_attention_mask=keep)
    torch.testing.assert_close(decoded.last_hidden_state, before.last_hidden_state)
    model.set_attn_implementation("esp")
    for length in (1, 3):
        with pytest.raises(ValueError, match=r"^is_causal|of a decoder"):
            model(tokens, decoder_input_ids=tokens[:, :length])


def test_cross_attention_is_refused() -> None:
    """With as many queries as keys too, which nothing but the module tells from self-attention."""
    config = transformers.BartConfig(**SEQ2SEQ, attn_implementation="esp")
    layer = transformers.models.bart.modeling_bart.BartDecoderLayer(config).eval().encoder_attn
    x = torch.randn(1, 4, 16)
    for queries in (1, 4):
        with pytest.raises(ValueError, match="of a decoder, whose tokens must not see later ones"):
            layer(x[:, :queries], key_value_states=x)
    from transformers.models.bert.modeling_bert import BertCrossAttention

    cross = BertCrossAttention(bert().config)
    with pytest.raises(ValueError, match="expected self-attention, got BertCrossAttention"):
        cross(x, encoder_hidden_states=x)


@pytest.mark.parametrize("argument", ["position_bias", "softcap", "s_aux", "sliding_window", "head_mask", "anything"])
def test_arguments_that_are_not_used_are_refused(argument: str) -> None:
    """Biases, soft caps, sinks, windows; None stands for none of them."""
    register_with_transformers("esp-given", tau=0.1, beta=1.0)
    attend = transformers.AttentionInterface._global_mapping["esp-given"]
    module, x = bert().encoder.layer[0].attention.self, torch.randn(1, 2, 3, 8)
    output, _ = attend(module, x, x, x, None, **{argument: None}, output_attentions=False)
    expected = esp_attention(x * 8**-0.5, x * 8**-0.5, x, tau=0.1, beta=1.0).output
    torch.testing.assert_close(output, expected.transpose(1, 2))
    with pytest.raises(ValueError, match=f"^{argument}: expected None"):
        attend(module, x, x, x, None, **{argument: torch.ones(())})
    for mask, text in (
        (torch.ones(3, 3).tril().bool().expand(1, 1, 3, 3), "differs from query to query"),
        (torch.rand(1, 1, 3, 3), "got a bias"),
    ):
        with pytest.raises(ValueError, match=f"^attention_mask: .*{text}"):
            attend(module, x, x, x, mask)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(
            ("name", name)
            for name in ("sdpa", "eager", "", 3, None, "my", "esp sdpa", "esp-sdpa", "flash_esp", "esp/x")
        ),
        *(("tau", tau) for tau in (-1, 0, float("nan"), float("inf"), "a", True)),
        *(("beta", beta) for beta in (-1, float("nan"), "a", True)),
        *(("sort", sort) for sort in ("typo", None, 1)),
        *(("directions", x) for x in (3, torch.ones(3), torch.ones(0, 3), torch.full((2, 3), torch.nan))),
    ],
)
def test_settings_are_checked_at_registration(argument: str, value: object) -> None:
    """Before a model runs, naming the argument; nothing is registered then."""
    before = dict(transformers.AttentionInterface._global_mapping)
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        register_with_transformers(**({"name": "esp-never"} | {argument: value}))
    assert transformers.AttentionInterface._global_mapping == before


def test_other_settings_need_another_name() -> None:
    """Models that run with a name are never changed; registering the same again does nothing."""
    directions = torch.eye(8)
    register_with_transformers("esp-once", tau=0.3, directions=directions)
    function = transformers.AttentionInterface._global_mapping["esp-once"]
    register_with_transformers("esp-once", tau=0.3, directions=directions.clone())
    for options in ({"tau": 0.4}, {"tau": 0.3}, {"tau": 0.3, "directions": 2 * directions}):
        with pytest.raises(ValueError, match=r"^name: 'esp-once' is registered with other settings"):
            register_with_transformers("esp-once", **options)
    assert transformers.AttentionInterface._global_mapping["esp-once"] is function


def test_models_that_never_call_it_are_named() -> None:
    """By path and type; ``where`` leaves one out that need not call it, such as a pooling layer."""
    mpnet = transformers.MPNetModel(transformers.MPNetConfig(**SIZE))
    with pytest.raises(ValueError, match=r"got encoder\.layer\.0\.attention\.attn and 1 more: .*MPNetSelfAttention"):
        set_encoder_attention(mpnet)
    with pytest.raises(ValueError, match=r"^model: expected a model of transformers, got Linear"):
        set_encoder_attention(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^name: expected one given to register_with_transformers"):
        set_encoder_attention(bert(), "esp-unheard-of")
    siglip = AutoModel.from_config(families.shrunk(families.CONFIG_MAPPING["siglip_vision_model"](), {})).eval()
    with pytest.raises(ValueError, match=r"got head\.attention: torch"):
        set_encoder_attention(siglip)
    set_encoder_attention(siglip, where=lambda path, _: not path.startswith("head"))
    assert torch.isfinite(siglip(torch.randn(1, 3, 32, 32)).last_hidden_state).all()


def test_biases_of_beit_and_t5_are_refused() -> None:
    """A position bias is never swallowed."""
    with pytest.raises(ValueError, match=r"^position_bias: expected None"):
        size = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        transformers.T5EncoderModel(transformers.T5Config(**size, attn_implementation="esp"))(torch.ones(1, 4).long())
    config = families.shrunk(families.CONFIG_MAPPING["beit"](), {"use_relative_position_bias": True})
    model = AutoModel.from_config(config, attn_implementation="esp").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    with pytest.raises(ValueError, match="bias"):
        model(torch.randn(1, 3, 32, 32))


def test_dropout_in_training() -> None:
    """Whole keys are left out: outputs vary in training, not in evaluation, and gradients arrive."""
    model, tokens = bert(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0), torch.randint(1, 30, (1, 5))
    assert torch.equal(model(tokens).last_hidden_state, model(tokens).last_hidden_state)
    model.train()
    outputs = [model(tokens).last_hidden_state for _ in range(2)]
    assert not torch.equal(*outputs)
    outputs[0].square().sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
