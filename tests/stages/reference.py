"""What each stage means, in plain Python: one candidate at a time, slow on purpose, sharing no code with batchrec."""

import math
from decimal import Context, Decimal

DIGITS = Context(prec=60, Emin=-(10**12), Emax=10**12)


def anti_join(positions, seen, eligible):
    return [
        [position != -1 and eligible[position] and position not in seen_by_user for position in row]
        for row, seen_by_user in zip(positions, seen, strict=True)
    ]


def order(positions, scores):
    out = []
    for row_positions, row_scores in zip(positions, scores, strict=True):
        real = [
            (-math.inf if math.isnan(score) else score, position)
            for position, score in zip(row_positions, row_scores, strict=True)
            if position != -1
        ]
        real.sort(key=lambda pair: (-pair[0], pair[1]))
        out.append(real + [(-math.inf, -1)] * (len(row_positions) - len(real)))
    return [[p for _, p in row] for row in out], [[s for s, _ in row] for row in out]


def retrieve(score_matrix, allowed, width):
    """First `width` allowed items of each row of a dense score matrix."""
    out = []
    for scores, row_allowed in zip(score_matrix, allowed, strict=True):
        ranked = sorted(range(len(scores)), key=lambda position, scores=scores: (-scores[position], position))
        best = [(position, scores[position]) for position in ranked if row_allowed[position]][:width]
        out.append(best + [(-1, -math.inf)] * (width - len(best)))
    return [[p for p, _ in row] for row in out], [[s for _, s in row] for row in out]


def splitmix64(value):
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def splitmix64_inverse(value):
    z = value ^ (value >> 31) ^ (value >> 62)
    z = z * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    z = z ^ (z >> 27) ^ (z >> 54)
    z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    z = z ^ (z >> 30) ^ (z >> 60)
    return (z - 0x9E3779B97F4A7C15) % 2**64


def gumbel(seed, user_hash, item_hash):
    bits = splitmix64(splitmix64(splitmix64(seed % 2**64) ^ user_hash) ^ item_hash)
    uniform = (2 * (bits >> 12) + 1) / 2**53
    return -math.log(-math.log(uniform))


def sample_row(relevance, positions, user_hash, item_hash, k, temperature, seed):
    """Draw one list by taking the best perturbed candidate again and again."""
    left = [
        (score * temperature + gumbel(seed, user_hash, item_hash[position]), position, score)
        for position, score in zip(positions, relevance, strict=True)
        if position != -1
    ]
    drawn = []
    while left and len(drawn) < k:
        best = max(left, key=lambda entry: (entry[0], -entry[1]))
        probability = softmax(best[2], [entry[2] for entry in left], temperature)
        drawn.append((best[1], best[2], probability))
        left.remove(best)
    return drawn + [(-1, -math.inf, 0.0)] * (k - len(drawn))


def softmax(score, left, temperature):
    """exp(score · temperature) over the sum of the same for those left, to sixty digits."""
    weights = [DIGITS.exp(DIGITS.multiply(Decimal(other), Decimal(temperature))) for other in left]
    total = Decimal(0)
    for weight in weights:
        total = DIGITS.add(total, weight)
    return float(DIGITS.divide(DIGITS.exp(DIGITS.multiply(Decimal(score), Decimal(temperature))), total))
