"""Texts of pages to vectors by sentence-transformers, cut into the same passages as the worker
cuts: 254 tokens, neighbours share 32, between [CLS] and [SEP]."""
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

WINDOW, OVERLAP, MOST = 254, 32, 1000
# Passages that the library computes together by default.
BATCH = 32


class Model:
    def __init__(self, folder):
        self.model = SentenceTransformer(folder, device="cpu")
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.ends = [self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]

    def cut(self, text):
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        starts = range(0, max(1, len(ids) - OVERLAP), WINDOW - OVERLAP)
        first, last = self.ends
        return [[first, *ids[start:start + WINDOW], last] for start in starts][:MOST]

    def embed(self, pages):
        """One list of vectors for each page. `pages` are lists of passages."""
        passages = [passage for page in pages for passage in page]
        # Like the library's own `encode`: sorted by length, padded batch by batch.
        order = sorted(range(len(passages)), key=lambda index: -len(passages[index]))
        vectors = [None] * len(passages)
        with torch.no_grad():
            for start in range(0, len(order), BATCH):
                batch = order[start:start + BATCH]
                width = len(passages[batch[0]])
                ids = torch.zeros((len(batch), width), dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, index in enumerate(batch):
                    passage = torch.tensor(passages[index])
                    ids[row, :len(passage)] = passage
                    mask[row, :len(passage)] = 1
                output = self.model.forward({"input_ids": ids, "attention_mask": mask})
                found = torch.nn.functional.normalize(output["sentence_embedding"])
                for index, vector in zip(batch, found):
                    vectors[index] = vector
        vectors = iter(vectors)
        return [[next(vectors).tolist() for _ in page] for page in pages]
