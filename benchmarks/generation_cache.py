"""Speed of answers under demonstrations: the shared key-value cache against a plain loop over `model.generate`.

    python -m benchmarks.generation_cache [--questions 64] [--demonstrations 8] [--image 112] [--width 512] [--layers 6]

A random LLaVA (CLIP's ViT with patch 14, a Llama decoder with heads of 64) answers questions about pictures after the same
demonstrations twice, in one process and on one thread: through the official processor and `generate`, one conversation
after the other; and through vlaudit's target. The answers must be the same. The default sizes have about the ratio of
attention to matrix products that LLaVA-1.5-7B has with 8 demonstrations (5,200 positions of width 4,096). Seconds are of this process's CPU time, so that a busy machine does not count; the ratio is what to look at.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_reader import noise
from vlaudit.families.generation import Demonstration
from vlaudit.prompts.instruction import Instruction

NEW_TOKENS = 8
WORDS = ("cat", "dog", "car", "red", "blue")


class Shown(Instruction):
    """Given demonstrations before the question."""

    def __init__(self, demonstrations: list[Demonstration]) -> None:
        super().__init__()
        self._demonstrations = demonstrations

    def demonstrations(self, model: object, picture: object, question: str) -> list[Demonstration]:
        return self._demonstrations


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("questions", 64), ("demonstrations", 8), ("image", 112), ("width", 512), ("layers", 6)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    generators.llava(folder, size=chosen.image, patch=14, width=chosen.width, layers=chosen.layers, context=8192,
                     heads=chosen.width // 64, shared_heads=chosen.width // 64)  # fmt: skip
    model = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
    examples = [noise(chosen.image, chosen.image, seed=i) for i in range(chosen.demonstrations)]
    pictures = [noise(chosen.image, chosen.image, seed=100 + i) for i in range(chosen.questions)]
    answers = [WORDS[i % len(WORDS)] for i in range(chosen.demonstrations)]
    questions = [f"is this a {WORDS[i % len(WORDS)]} ?" for i in range(chosen.questions)]
    count = sum(p.numel() for p in model._model.parameters())  # type: ignore[attr-defined]
    print(f"{count / 1e6:.1f} M parameters, {chosen.demonstrations} demonstrations, {chosen.questions} questions")

    then = time.process_time()
    shown = [Demonstration(str(i), "what is this ?", a, model.preprocess(p)) for i, (p, a) in enumerate(zip(examples, answers, strict=True))]  # fmt: skip
    target = Shown(shown).bind(model)
    mine = target.generate([model.preprocess(p) for p in pictures], questions, max_new_tokens=NEW_TOKENS)
    ours = time.process_time() - then

    then = time.process_time()
    plain = official(folder, examples, answers, pictures, questions)
    loop = time.process_time() - then

    assert plain == [str(answer) for answer in mine], "the answers must be identical"
    print(f"plain loop over generate  {loop:7.1f} s  {loop / len(questions):6.2f} s an answer")
    print(f"vlaudit, shared cache     {ours:7.1f} s  {ours / len(questions):6.2f} s an answer")
    print(f"{loop / ours:.1f} times as fast, {len(set(plain))} different answers, all identical")


def official(folder: Path, examples: list, answers: list[str], pictures: list, questions: list[str]) -> list[str]:
    """What a user of transformers writes."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    own = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(folder)
    said = []
    for picture, question in zip(pictures, questions, strict=True):
        turns = []
        for text, answer in [("what is this ?", answer) for answer in answers]:
            turns.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]})
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        turns.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]})
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = processor(images=[*examples, picture], text=text, return_tensors="pt")
        with torch.no_grad():
            written = own.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        answer = processor.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said.append(answer.strip())
    return said


if __name__ == "__main__":
    main()
