"""From a benchmark to a result: prompts, traces, responses, scores and measurement, each a stage that can resume."""
