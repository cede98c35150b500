"""Tiny transformers models with random weights, and what their attention is by construction.

Every expectation here follows from the configuration and the published architecture, never from a tool
that reads the exported graph.
"""

from dataclasses import dataclass
from typing import Callable

import torch
import transformers as hf

from exporting import Input, randomize

VOCAB = 32
POSITIONS = 40
HEADS, HEAD_DIM = 3, 4
WIDTH = HEADS * HEAD_DIM
GROUPED_HEADS, KV_HEADS = 6, 2
SIZES = {"batch": 2, "sequence": 9, "encoder_sequence": 7, "past_sequence": 5, "total_sequence": 14, "frames": 12}
WINDOW = 4

IDS = Input("input_ids", ("batch", "sequence"), f"ids:{VOCAB}")
PADDING = Input("attention_mask", ("batch", "sequence"), "padding")


@dataclass(frozen=True)
class Site:
    """One attention of the model. `scope` is a part of the module path that the exporter keeps.

    `replaceable` None leaves the decision to the rewriter; `empty_row` says what a row gives that sees no key
    ('never' where every row sees one, None where nothing is claimed).
    """

    scope: str
    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float
    mask: str
    causal: bool = False
    kind: str = "self"
    dtype: str = "float32"
    past: bool = False
    replaceable: bool = True
    alignment: str = "equal"
    empty_row: str = None


@dataclass(frozen=True)
class Architecture:
    """A model family. `build(attention, masked)` gives the module; `sites(masked)` its attention.

    `constant_mask` names the kinds of exporter that keep a mask that hides nothing in the graph when the model
    gets no attention mask. `float_mask`: masks reach attention as floats that are added, in sdpa too.
    `attentions`: DeBERTa and BLOOM have no sdpa form, and that of Gemma 2 leaves out the cap.
    """

    name: str
    build: Callable
    inputs: Callable
    outputs: dict
    sites: Callable
    variants: tuple = (True, False)
    constant_mask: tuple = ()
    float_mask: bool = False
    attentions: tuple = ("eager", "sdpa")


class Wrapped(torch.nn.Module):
    """Calls a transformers model by input name and returns its hidden states, a plain tensor."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values):
        return self.model(**dict(zip(self.names, values))).last_hidden_state


def wrap(model, inputs, seed=11):
    return Wrapped(randomize(model, seed), [spec.name for spec in inputs])


def text_inputs(masked):
    return [IDS, PADDING] if masked else [IDS]


STATES = {"last_hidden_state": ("batch", "sequence", WIDTH)}

BERT_SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=16,
    max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)


def bert(attention, masked, **more):
    config = hf.BertConfig(**BERT_SIZES, attn_implementation=attention, **more)
    return wrap(hf.BertModel(config, add_pooling_layer=False), text_inputs(masked))


def roberta(attention, masked):
    config = hf.RobertaConfig(**{**BERT_SIZES, "max_position_embeddings": POSITIONS + 2}, attn_implementation=attention)
    return wrap(hf.RobertaModel(config, add_pooling_layer=False), text_inputs(masked))


def distilbert(attention, masked):
    config = hf.DistilBertConfig(
        vocab_size=VOCAB, dim=WIDTH, n_layers=1, n_heads=HEADS, hidden_dim=16, max_position_embeddings=POSITIONS,
        dropout=0.0, attention_dropout=0.0, attn_implementation=attention,
    )
    return wrap(hf.DistilBertModel(config), text_inputs(masked))


def bidirectional(scope, heads=HEADS, head_dim=HEAD_DIM, layers=1):
    def sites(masked):
        mask = "key-padding" if masked else "none"
        return [Site(scope.format(i), heads, heads, head_dim, head_dim**-0.5, mask) for i in range(layers)]

    return sites


def causal(scope, heads, kv_heads, head_dim=HEAD_DIM, layers=1, scale=None):
    def sites(masked):
        mask = "causal+padding" if masked else "causal"
        return [
            Site(scope.format(i), heads, kv_heads, head_dim, scale or head_dim**-0.5, mask, causal=True)
            for i in range(layers)
        ]

    return sites


def gpt2(attention, masked):
    config = hf.GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=1, n_head=HEADS, n_inner=16, n_positions=POSITIONS, use_cache=not masked,
        bos_token_id=1, eos_token_id=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation=attention,
    )
    return wrap(hf.GPT2Model(config), text_inputs(masked))


LLAMA_SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=GROUPED_HEADS,
    num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, max_position_embeddings=POSITIONS,
)


def llama(attention, masked):
    return wrap(hf.LlamaModel(hf.LlamaConfig(**LLAMA_SIZES, use_cache=not masked, attn_implementation=attention)), text_inputs(masked))


def llama_mqa(attention, masked):
    sizes = {**LLAMA_SIZES, "num_key_value_heads": 1}
    return wrap(hf.LlamaModel(hf.LlamaConfig(**sizes, use_cache=not masked, attn_implementation=attention)), text_inputs(masked))


def mistral(attention, masked):
    config = hf.MistralConfig(**LLAMA_SIZES, use_cache=not masked, sliding_window=WINDOW, attn_implementation=attention)
    return wrap(hf.MistralModel(config), text_inputs(masked))


def mistral_sites(masked):
    return [Site("layers.0.self_attn", GROUPED_HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM**-0.5, "sliding-window", causal=True, replaceable=False)]


def qwen2(attention, masked):
    sizes = {k: v for k, v in LLAMA_SIZES.items() if k != "head_dim"}
    config = hf.Qwen2Config(**{**sizes, "hidden_size": GROUPED_HEADS * HEAD_DIM}, use_cache=not masked, attn_implementation=attention)
    return wrap(hf.Qwen2Model(config), text_inputs(masked))


def gemma2(attention, masked):
    config = hf.Gemma2Config(
        **LLAMA_SIZES, use_cache=not masked, query_pre_attn_scalar=16, sliding_window=WINDOW,
        attn_logit_softcapping=5.0, attn_implementation=attention,
    )
    return wrap(hf.Gemma2Model(config), text_inputs(masked))


def gemma2_sites(masked):
    return [Site("layers.0.self_attn", GROUPED_HEADS, KV_HEADS, HEAD_DIM, 0.25, "other", causal=True, replaceable=False)]


PIXELS = Input("pixel_values", ("batch", 3, 16, 16), "normal", "float32")


def vit(attention, masked):
    config = hf.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=16, image_size=16, patch_size=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation=attention,
    )
    return wrap(hf.ViTModel(config, add_pooling_layer=False), [PIXELS])


CLIP_SIZES = dict(hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=HEADS, projection_dim=16)


def clip_text(attention, masked):
    config = hf.CLIPTextConfig(
        vocab_size=VOCAB, max_position_embeddings=POSITIONS, eos_token_id=2, **CLIP_SIZES, attn_implementation=attention,
    )
    return wrap(hf.CLIPTextModel(config), text_inputs(masked))


def clip_vision(attention, masked):
    config = hf.CLIPVisionConfig(image_size=16, patch_size=4, **CLIP_SIZES, attn_implementation=attention)
    return wrap(hf.CLIPVisionModel(config), [PIXELS])


WHISPER_SIZES = dict(
    vocab_size=VOCAB, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_source_positions=6,
    max_target_positions=POSITIONS, use_cache=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    decoder_start_token_id=1,
)
FEATURES = Input("input_features", ("batch", 8, 12), "normal", "float32")


def whisper_encoder(attention, masked):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return wrap(WhisperEncoder(hf.WhisperConfig(**WHISPER_SIZES, attn_implementation=attention)), [FEATURES])


def encoder_states(width):
    return Input("encoder_hidden_states", ("batch", "encoder_sequence", width), "normal", "float32")


def whisper_decoder(attention, masked):
    from transformers.models.whisper.modeling_whisper import WhisperDecoder

    config = hf.WhisperConfig(**WHISPER_SIZES, attn_implementation=attention)
    return wrap(WhisperDecoder(config), [IDS, encoder_states(WIDTH)])


def whisper_decoder_sites(masked):
    return [
        Site("layers.0.self_attn", HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, "causal", causal=True),
        Site("layers.0.encoder_attn", HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, "none", kind="cross"),
    ]


T5_SIZES = dict(
    vocab_size=VOCAB, d_model=WIDTH, d_kv=HEAD_DIM, d_ff=16, num_layers=2, num_decoder_layers=1, num_heads=HEADS, dropout_rate=0.0,
    relative_attention_num_buckets=8, relative_attention_max_distance=16, use_cache=False, pad_token_id=0,
    eos_token_id=1, decoder_start_token_id=0,
)
ENCODER_PADDING = Input("encoder_attention_mask", ("batch", "encoder_sequence"), "padding")


def t5_encoder(attention, masked):
    return wrap(hf.T5EncoderModel(hf.T5Config(**T5_SIZES, attn_implementation=attention)), text_inputs(masked))


def t5_encoder_sites(masked):
    return [
        Site(f"block.{i}.layer.0.SelfAttention", HEADS, HEADS, HEAD_DIM, 1.0, "relative-bias", replaceable=False) for i in range(2)
    ]


def t5_decoder_inputs(masked):
    return [IDS, encoder_states(WIDTH), *([ENCODER_PADDING] if masked else [])]


def t5_decoder(attention, masked):
    from transformers.models.t5.modeling_t5 import T5Stack

    config = hf.T5Config(**{**T5_SIZES, "is_decoder": True, "num_layers": 1}, attn_implementation=attention)
    stack = T5Stack(config)
    stack.set_input_embeddings(torch.nn.Embedding(VOCAB, WIDTH))
    return wrap(stack, t5_decoder_inputs(masked))


def t5_decoder_sites(masked):
    return [
        Site("block.0.layer.0.SelfAttention", HEADS, HEADS, HEAD_DIM, 1.0, "relative-bias", causal=True, replaceable=False),
        Site(
            "block.0.layer.1.EncDecAttention", HEADS, HEADS, HEAD_DIM, 1.0, "key-padding" if masked else "none", kind="cross",
        ),
    ]


def modernbert(attention, masked):
    config = hf.ModernBertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS, global_attn_every_n_layers=2, local_attention=2 * WINDOW, pad_token_id=0,
        cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, reference_compile=False,
        attn_implementation=attention,
    )
    return wrap(hf.ModernBertModel(config), text_inputs(masked))


def modernbert_sites(masked):
    return [
        Site("layers.0.attn", HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, "key-padding" if masked else "none"),
        Site("layers.1.attn", HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, "sliding-window", replaceable=False),
    ]


def deberta_v2(attention, masked):
    config = hf.DebertaV2Config(
        **BERT_SIZES, relative_attention=True, max_relative_positions=8, position_buckets=8,
        pos_att_type=["c2p", "p2c"], norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
        type_vocab_size=0,
    )
    return wrap(hf.DebertaV2Model(config), text_inputs(masked))


def bloom(attention, masked):
    config = hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, n_layer=1, n_head=HEADS, use_cache=False, hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return wrap(hf.BloomModel(config), text_inputs(masked))


def bloom_sites(masked):
    return [Site("h.0.self_attention", HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, "relative-bias", causal=True, replaceable=False)]


ARCHITECTURES = [
    Architecture("bert", bert, text_inputs, STATES, bidirectional("encoder.layer.{}.attention.self"), constant_mask=("dynamo",)),
    Architecture("roberta", roberta, text_inputs, STATES, bidirectional("encoder.layer.{}.attention.self"), constant_mask=("dynamo",)),
    Architecture("distilbert", distilbert, text_inputs, STATES, bidirectional("transformer.layer.{}.attention"), constant_mask=("dynamo",)),
    Architecture("gpt2", gpt2, text_inputs, STATES, causal("h.{}.attn", HEADS, HEADS)),
    Architecture("llama", llama, text_inputs, STATES, causal("layers.{}.self_attn", GROUPED_HEADS, KV_HEADS)),
    Architecture("llama-mqa", llama_mqa, text_inputs, STATES, causal("layers.{}.self_attn", GROUPED_HEADS, 1)),
    Architecture("mistral", mistral, text_inputs, STATES, mistral_sites),
    Architecture("qwen2", qwen2, text_inputs, {"last_hidden_state": ("batch", "sequence", GROUPED_HEADS * HEAD_DIM)}, causal("layers.{}.self_attn", GROUPED_HEADS, KV_HEADS)),
    Architecture("gemma2", gemma2, text_inputs, STATES, gemma2_sites, attentions=("eager",)),
    Architecture("vit", vit, lambda _: [PIXELS], {"last_hidden_state": ("batch", 17, WIDTH)}, bidirectional("layers.{}.attention"), variants=(False,), constant_mask=("dynamo",)),
    Architecture("clip-text", clip_text, text_inputs, STATES, causal("layers.{}.self_attn", HEADS, HEADS)),
    Architecture("clip-vision", clip_vision, lambda _: [PIXELS], {"last_hidden_state": ("batch", 17, WIDTH)}, bidirectional("layers.{}.self_attn"), variants=(False,)),
    Architecture("whisper-encoder", whisper_encoder, lambda _: [FEATURES], {"last_hidden_state": ("batch", 6, WIDTH)}, bidirectional("layers.{}.self_attn"), variants=(False,)),
    Architecture("whisper-decoder", whisper_decoder, lambda _: [IDS, encoder_states(WIDTH)], STATES, whisper_decoder_sites, variants=(False,)),
    Architecture("t5-encoder", t5_encoder, text_inputs, STATES, t5_encoder_sites),
    Architecture("t5-decoder", t5_decoder, t5_decoder_inputs, STATES, t5_decoder_sites, constant_mask=("legacy", "dynamo"), float_mask=True),
    Architecture("modernbert", modernbert, text_inputs, STATES, modernbert_sites, constant_mask=("dynamo",)),
    Architecture("deberta-v2", deberta_v2, text_inputs, STATES, lambda _: [], attentions=("eager",)),
    Architecture("bloom", bloom, text_inputs, STATES, bloom_sites, attentions=("eager",)),
]
