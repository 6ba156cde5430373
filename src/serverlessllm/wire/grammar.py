# SPDX-License-Identifier: Apache-2.0
"""What an answer may consist of, as an agent tells an engine: text in llguidance's grammar language, and its bounds.

Whoever compiles a grammar does so within `PARSER_LIMITS`, so that a hostile one costs everybody the same little: at
most a second to compile and some 40 MB, 15 ms and 3 ms (lexer, parser) a step. Knows no JSON schema and no tokens.
"""

from __future__ import annotations

from typing import Final

from llguidance import LLParserLimits

MAX_GRAMMAR_BYTES: Final = 128 << 10
"""Of one answer's whole grammar. 57 KB of optional properties, the slowest found, compile in 0.8 s."""

PARSER_LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""llguidance's own bounds, with fewer lexer states (1 to 2 kB each) and no grammar text in its messages."""
