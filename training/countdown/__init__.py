"""What only the embedded Countdown policy has: credit by the grammar of its worked solutions."""
