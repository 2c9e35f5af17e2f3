"""Tasks with one answer a text: embeddings, reranking, classification; no Triton in here."""
