"""From a chat request to its answer: checked, settled, asked, streamed."""
