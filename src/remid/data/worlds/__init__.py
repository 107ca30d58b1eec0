"""Worlds with known answers: laws and channels whose information is exact, and dialogues made from them."""
