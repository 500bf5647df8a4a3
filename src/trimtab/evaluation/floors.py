"""What a reward model must beat: trivial ways of telling the better response from the worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.data.pairs import Pair
from trimtab.stats import ranked_right


def longer_is_better(pairs: Sequence[Pair]) -> float:
    """Pairs ranked right by preferring the longer response (characters); a tie counts one half."""
    return ranked_right(longer_gaps(pairs))


def longer_gaps(pairs: Sequence[Pair]) -> list[int]:
    """By how many characters the better response of each pair is longer."""
    return [len(pair.chosen) - len(pair.rejected) for pair in pairs]


def bag_of_words(train: Sequence[Pair], test: Sequence[Pair]) -> list[float] | None:
    """By how much the better response of each test pair is ahead, to a linear model over words.

    Logistic regression on the difference of the two responses' tf-idf vectors of uni- and bigrams
    (Bradley-Terry with linear rewards), fitted on the training pairs in both orders. None where the
    training pairs are too few to share a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        vectorizer.fit([text for pair in train for text in (pair.chosen, pair.rejected)])
    except ValueError:  # no term occurs twice
        return None

    def difference(pairs: Sequence[Pair]) -> object:
        return vectorizer.transform([p.chosen for p in pairs]) - vectorizer.transform(
            [p.rejected for p in pairs]
        )

    from scipy.sparse import vstack

    forward = difference(train)
    features = vstack([forward, -forward])  # type: ignore[operator]
    labels = np.repeat([1, 0], len(train))
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000).fit(features, labels)
    margins = model.decision_function(difference(test))
    return [float(margin) for margin in margins]
