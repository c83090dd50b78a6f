"""How well the text tower reads sentences: WordNet's examples of the list's test words, each with its word's emotion.

    python experiments/word_sentences.py --model outputs/words     # needs Debian's wordnet-base

The sentences were written by WordNet's makers to show a word in use. Most name the emotion by that word, which was not
in training; what follows only from the situation is not tested. Sentences of fewer than four words are left out.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub import load_pipeline
from make_word_vectors import PARTS_OF_SPEECH, WORDNET
from training.prompts import emotion_words

LEAST_WORDS = 4


def read_examples(folder: Path) -> dict[str, str]:
    """Each example of a sense that has one of the list's test words, with the word in it, and the word's emotion."""
    emotion_of = {word: emotion for emotion, words in emotion_words("test").items() for word in words}
    examples = {}
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"data.{part}").read_text().splitlines():
            data, _, gloss = line.partition("|")
            words = data.lower().replace("_", " ").split(" ")
            for example in re.findall(r'"([^"]+)"', gloss):
                own = [word for word in words if word in emotion_of and word in example.lower()]
                if own and len(example.split()) >= LEAST_WORDS:
                    examples[example] = emotion_of[own[0]]
    return examples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="WordNet's data files")
    args = parser.parse_args()
    pipe = load_pipeline(args.model, device="cpu")
    examples = read_examples(args.wordnet)
    read = pipe.read_texts(list(examples))
    right = [result.label == examples[result.text] for result in read]
    print(f"{len(right)} sentences, {100 * sum(right) / len(right):.1f} % read as the emotion of their word")
    for result in read:
        print(f"{result.label:9}{examples[result.text]:9}{result.text}")


if __name__ == "__main__":
    main()
