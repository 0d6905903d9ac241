"""Words of what is recorded, which every floor speaks."""

# Libraries that can change a result: their versions are recorded.
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
)
# What a search for the largest batch ended at.
CAP, LARGEST, ROWS = "cap", "largest_batch_size", "train rows"
