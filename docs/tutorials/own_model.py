# %% [markdown]
# # A map in your own model
#
# Any Qwen2 folder with its own tokenizer is read by texts: templates over real cities, or a CSV of your own entities. Is
# a map of the world in it (Gurnee and Tegmark 2023)? Here the folder is a random model made on the spot, so the right
# answer is *no*: a probe must say so. Put your own folder in its place.

# %%
import subprocess
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

FOLDER = "my-qwen2"
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator(
    ["The city of Paris is in France."], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet)
)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=len(tokenizer),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
Qwen2ForCausalLM(config).save_pretrained(FOLDER)
tokenizer.save_pretrained(FOLDER)

# %% [markdown]
# Three commands: keep activations, probe, look.


# %%
def cwr_mech(*words):
    """The command line, as in a terminal: cwr-mech WORDS."""
    done = subprocess.run([sys.executable, "-m", "cwr_mech_cli.main", *words], capture_output=True, text=True)
    print(done.stdout[-3000:], done.stderr[-1000:])
    assert done.returncode == 0


cwr_mech(
    "cache-acts", FOLDER, "--template", "The city of {name} is in", "--n-cities", "120", "--device", "cpu"
)

# %%
cwr_mech("probe", FOLDER, "--draws", "3")

# %% [markdown]
# Beside the R² stand its controls: shuffled places, the tokens of the name alone, and the same model before training.
# A map is there when the probe is clearly above *all* of them. From Python:

# %%
import cwr_mech as library

table = library.probe(FOLDER, draws=3).to_pandas("layers")
print(table[["layer", "r2", "control_r2_shuffled", "control_r2_tokens"]].round(2).to_string(index=False))
assert table.r2.max() < 0.5  # a random model holds no map
