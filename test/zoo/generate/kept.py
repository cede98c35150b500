"""Which of all models are fixtures of the repository, and what stock ONNX Runtime cannot do with some."""

KEPT = """
bert-eager-legacy11 bert-eager-legacy17 bert-sdpa-legacy17
bert-eager-dynamo18 bert-sdpa-dynamo18 bert-sdpa-dynamo23 bert-sdpa-dynamo23-nomask
bert-half-eager-legacy17 bert-half-sdpa-dynamo18 bert-half-sdpa-dynamo23 bert-sdpa-legacy17-float16 bert-fused-sdpa-dynamo18
roberta-eager-dynamo18
distilbert-eager-legacy17 distilbert-sdpa-dynamo18
gpt2-eager-legacy17
gpt2-sdpa-dynamo18 gpt2-sdpa-dynamo18-nomask gpt2-sdpa-dynamo23
gpt2-cached-sdpa-legacy17 gpt2-cached-sdpa-dynamo18 gpt2-merged-eager-dynamo18
llama-sdpa-legacy17 llama-eager-dynamo18 llama-sdpa-dynamo18 llama-sdpa-dynamo18-nomask
llama-eager-dynamo23 llama-sdpa-dynamo23 llama-half-sdpa-dynamo18 llama-mqa-sdpa-dynamo18 llama-sdpa-dynamo18-float16
llama-cached-sdpa-dynamo18 llama-cached-sdpa-dynamo23 llama-merged-sdpa-dynamo18
mistral-eager-dynamo18
qwen2-eager-dynamo18
gemma2-eager-dynamo18
vit-sdpa-legacy17 vit-eager-dynamo18 vit-sdpa-dynamo18 vit-sdpa-dynamo23 vit-fused-eager-dynamo18
clip-text-sdpa-legacy17 clip-text-sdpa-dynamo18-nomask clip-text-sdpa-dynamo23
clip-vision-sdpa-legacy17 clip-vision-eager-dynamo18
whisper-encoder-eager-legacy17 whisper-encoder-sdpa-legacy17 whisper-encoder-sdpa-dynamo18 whisper-encoder-fused-sdpa-dynamo18
whisper-decoder-sdpa-legacy17 whisper-decoder-sdpa-dynamo23
t5-encoder-sdpa-dynamo23-nomask t5-decoder-eager-dynamo18 t5-decoder-sdpa-dynamo23
modernbert-eager-dynamo18 modernbert-sdpa-dynamo23-nomask
deberta-v2-eager-dynamo18
bloom-eager-dynamo18
packed-unbind-legacy17 packed-unbind-dynamo18 packed-chunk-legacy17 packed-chunk-dynamo18 packed-chunk-dynamo23
root-of-shape-legacy17 divided-query-dynamo18 unscaled-legacy17 narrow-value-legacy17 narrow-value-dynamo18
einsum-legacy17 einsum-dynamo18 batched-heads-legacy17 batched-heads-dynamo18 one-head-legacy17 one-head-dynamo18
minus-10000-legacy17 minus-10000-dynamo18 filled-padding-legacy17 filled-padding-dynamo18
sdpa-visible-legacy17 sdpa-visible-dynamo18 sdpa-visible-dynamo23 sdpa-cross-legacy17 sdpa-cross-dynamo18 sdpa-cross-dynamo23
additive-input-legacy17 additive-input-dynamo23 stored-triangle-legacy17 stored-triangle-dynamo18
triu-infinity-legacy17 triu-infinity-dynamo18 triangle-and-padding-legacy17 triangle-and-padding-dynamo18
banded-window-legacy17 banded-window-dynamo23 symmetric-window-dynamo18 upper-left-legacy17 upper-left-dynamo18 upper-left-dynamo23
prefix-visible-legacy17 prefix-visible-dynamo18 alibi-legacy17 alibi-dynamo18 swin-window-legacy17 swin-window-dynamo18
torch-attention-legacy17 torch-attention-dynamo18 torch-attention-dynamo23 torch-attention-weights-legacy17 torch-attention-weights-dynamo18
torch-encoder-layer-dynamo18 weights-out-legacy17 weights-out-dynamo18 learned-temperature-legacy17
linear-attention-legacy17 linear-attention-dynamo18 sigmoid-attention-legacy17 query-axis-legacy17 query-axis-dynamo18
talking-heads-legacy17 sink-column-legacy17 sink-column-dynamo18 scaled-probabilities-legacy17 additive-scores-legacy17
codebook-legacy17 output-softmax-legacy17
ms-multi-head-plain ms-multi-head-cross ms-multi-head-scale ms-multi-head-projection-bias ms-multi-head-key-mask
ms-multi-head-cross-key-mask ms-multi-head-lengths ms-multi-head-additive-bias ms-multi-head-causal
ms-multi-head-causal-key-mask ms-multi-head-past
ms-attention-plain ms-attention-key-mask ms-attention-lengths ms-attention-causal ms-attention-additive-bias
ms-group-query-prompt ms-group-query-rotary ms-group-query-past ms-group-query-window ms-group-query-softcap ms-group-query-packed ms-group-query-decoder
onnx-attention23-plain onnx-attention23-cross onnx-attention23-scale onnx-attention23-grouped onnx-attention23-packed
onnx-attention23-causal onnx-attention23-causal-cross onnx-attention23-padding onnx-attention23-causal-padding
onnx-attention23-mask-input onnx-attention23-row-mask-input onnx-attention23-float-mask onnx-attention23-softcap
onnx-attention23-past onnx-attention23-scores-out onnx-attention24-plain onnx-attention24-lengths onnx-attention25-plain
onnx-attention25-window
graph-noise graph-split-scale graph-guarded-padding graph-branches graph-loop graph-function
""".split()

# ONNX Runtime 1.30 on the CPU does not run these originals at all.
MASK_BROADCAST = "ONNX Runtime's Attention does not broadcast a mask of one row"
NOT_RUNNABLE = {
    "sdpa-visible-dynamo23": MASK_BROADCAST,
    "sdpa-cross-dynamo23": MASK_BROADCAST,
    "torch-attention-dynamo23": MASK_BROADCAST,
    "onnx-attention25-window": "ONNX Runtime does not know the window attributes of Attention 25",
}

# ONNX Runtime refuses larger batches: of RotaryEmbedding with the tables of one batch row that exporters give it,
# and of GroupQueryAttention with several queries behind a cache.
NEED_ONE_BATCH = {
    "llama-eager-dynamo23", "llama-sdpa-dynamo23", "llama-cached-sdpa-dynamo23", "llama-half-sdpa-dynamo23", "modernbert-sdpa-dynamo23-nomask",
    "ms-group-query-past", "ms-group-query-decoder",
}

# Batch and length of the example are baked in.
FIXED_SIZES = {"torch-attention-legacy17", "torch-attention-weights-legacy17"}
