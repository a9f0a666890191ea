"""Settings of a model."""

from pydantic import Field, model_validator

from cwr_mech.config.base import Config
from cwr_mech.errors import ConfigError


class ModelConfig(Config):
    """A Qwen2 transformer. Defaults are the paper's: 1,601,920 parameters."""

    n_layers: int = Field(6, ge=1, description="number of layers (transformer blocks)")
    d_model: int = Field(128, ge=2, description="width of the residual stream (hidden size)")
    n_heads: int = Field(4, ge=1, description="number of attention heads")
    n_key_value_heads: int | None = Field(None, ge=1, description="key and value heads (GQA); none: n_heads")
    d_mlp: int = Field(512, ge=1, description="width of the MLP (intermediate size)")
    d_vocab: int = Field(98, ge=2, description="size of the vocabulary")
    n_ctx: int = Field(256, ge=2, description="longest context in tokens")
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary position embedding")
    rms_eps: float = Field(1e-6, gt=0, description="epsilon of the RMS norms")
    tied: bool = Field(False, description="the unembedding is the embedding (tied weights)")
    init_std: float = Field(0.1, gt=0, description="standard deviation of the first weights (initialisation)")

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def n_kv(self) -> int:
        """Number of key/value heads."""
        return self.n_key_value_heads or self.n_heads

    @property
    def n_parameters(self) -> int:
        """How many numbers the weights are."""
        d, queries, keys = self.d_model, self.n_heads * self.d_head, self.n_kv * self.d_head
        # Two norms; W_Q, W_K, W_V with their biases, W_O without; gate, up and down of the MLP.
        block = 2 * d + (d + 1) * (queries + 2 * keys) + queries * d + 3 * d * self.d_mlp
        return self.n_layers * block + d + self.d_vocab * d * (1 if self.tied else 2)

    @property
    def modules(self) -> tuple[str, ...]:
        """E (the embedding), the blocks L0, L1, ..., and U (final norm and, where not tied, unembedding)."""
        return ("E", *(f"L{layer}" for layer in range(self.n_layers)), "U")

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        self._check_width()
        if self.n_heads % self.n_kv:
            raise ConfigError(f"n_heads {self.n_heads} must be a multiple of n_key_value_heads {self.n_kv}")
        return self

    def _check_width(self) -> None:
        if self.d_model % self.n_heads or self.d_head % 2:
            raise ConfigError(f"d_model {self.d_model} must be n_heads {self.n_heads} times an even width")
