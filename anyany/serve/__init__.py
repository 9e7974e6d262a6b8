"""`anyany serve`: the engine over HTTP, in shapes that OpenAI's clients already speak.

    client ──► guard ──► routes ──► Job ──► Scheduler (one thread, one engine)
    (HTTP)     (key,     (bodies    (a      text ahead of long decoding,
               host,     to parts)  request) bounded queue, deadlines
               bytes)                  │
    client ◄── answers, SSE ◄──────────┘ events as they come

The same request and seed give the same bytes as `AnyToAny.generate`. Needs the extra `serve`;
nothing here is imported by `import anyany`.
"""
