"""Write made-up support tickets, for the tutorial in docs/your-data.md: python examples/tickets.py tickets.csv."""

import csv
import random
import sys
from pathlib import Path

OPENINGS = ["Hello,", "Hi there,", "Good morning,", "Dear team,", "To whom it may concern,"]
SUBJECTS = {
    "billing": ["my invoice", "the refund", "the payment", "my card", "the discount", "the receipt"],
    "delivery": ["my parcel", "the courier", "the order", "the shipment", "the tracking page", "the package"],
    "technical": ["the app", "my password", "the login page", "the update", "the screen", "the website"],
}
TROUBLES = {
    "billing": ["was charged twice", "shows the wrong amount", "has not been paid out", "was declined"],
    "delivery": ["has not arrived", "went to the wrong address", "came damaged", "is a week late"],
    "technical": ["does not load", "shows an error", "crashes at once", "does not accept my name"],
}
ANYWHERE = ["is wrong", "is missing", "cannot be found", "is not what I asked for", "needs your help"]
ENDINGS = ["Please help.", "What can I do?", "Can you look into it?", "I wait for your answer.", "This is urgent."]


def tickets(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct bodies, each with the team that should get it; some name what another team knows better."""
    draw = random.Random(seed)
    teams = list(SUBJECTS)
    found: dict[str, str] = {}
    while len(found) < count:
        team = teams[len(found) % len(teams)]
        trouble = draw.choice(TROUBLES[team] if draw.random() < 0.7 else ANYWHERE)
        subject = draw.choice(SUBJECTS[team if draw.random() < 0.8 else draw.choice(teams)])
        number = draw.randint(1000, 9999)
        body = f"{draw.choice(OPENINGS)} {subject} {trouble}. My number is {number}. {draw.choice(ENDINGS)}"
        found.setdefault(body, team)
    return list(found.items())


def main() -> None:
    """Write 600 tickets as a CSV file with the columns body and team."""
    with Path(sys.argv[1]).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["body", "team"])
        writer.writerows(tickets(600))


if __name__ == "__main__":
    main()
