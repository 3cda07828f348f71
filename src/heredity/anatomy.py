"""What a tensor is, from its name: its layer, its kind, whether it belongs to a head."""

import re

KINDS = (
    "embedding", "attention q", "attention k", "attention v", "attention qkv", "attention o", "mlp", "norm",
    "head", "other",
)  # fmt: skip
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_HEAD = re.compile(
    r"(?:^|\.)(?:lm_head|embed_out|score|classifier|qa_outputs|cls|pooler|logits_proj|summary)(?:\.|$)"
)
_PATTERNS = (
    ("norm", r"norm|(?:^|\.)ln_|(?:^|\.)ln\d*(?:\.|$)|_ln(?:\.|$)"),
    ("attention qkv", r"c_attn|query_key_value|qkv|in_proj|Wqkv|W_pack"),
    ("attention q", r"(?:^|\.)(?:q_proj|query|q_lin|q)(?:\.|$)|q_[ab]_proj"),
    ("attention k", r"(?:^|\.)(?:k_proj|key|k_lin|k)(?:\.|$)"),
    ("attention v", r"(?:^|\.)(?:v_proj|value|v_lin|v)(?:\.|$)|kv_[ab]_proj"),
    (
        "attention o",
        r"(?:^|\.)(?:o_proj|out_proj|out_lin|o)(?:\.|$)|attn\.c_proj|attention\.(?:output\.)?dense",
    ),
    (
        "mlp",
        r"mlp|ffn|feed_forward|c_fc|gate_proj|up_proj|down_proj|fc\d|intermediate\.|output\.dense|experts|wi(?:_\d)?\.|wo\.",
    ),
    ("embedding", r"embed|(?:^|\.)w[tp]e(?:\.|$)|(?:^|\.)shared(?:\.|$)"),
)


def layer_of(name: str) -> int | None:
    """Return the number of the layer a tensor belongs to, or None outside the layers.

    >>> layer_of("model.layers.11.mlp.up_proj.weight")
    11
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """Return one of `KINDS`.

    >>> kind_of("transformer.h.0.attn.c_attn.weight")
    'attention qkv'
    """
    if is_head(name):
        return "head"
    for kind, pattern in _PATTERNS:
        if re.search(pattern, name, re.IGNORECASE if kind == "norm" else 0):
            return kind
    return "other"


def is_head(name: str) -> bool:
    """Say whether a tensor belongs to an output head, which is excluded from comparisons by default.

    >>> is_head("lm_head.weight"), is_head("model.norm.weight")
    (True, False)
    """
    return _HEAD.search(name) is not None and layer_of(name) is None


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Say whether a tensor is a constant stored beside the weights: masks, positions, frequencies.

    >>> is_buffer("h.0.attn.bias", (1, 1, 1024, 1024))
    True
    """
    if re.search(r"position_ids$|inv_freq$|masked_bias$|num_batches_tracked$", name):
        return True
    return name.endswith("attn.bias") and len(shape) == 4
