"""`anyany serve`: the engine over HTTP, in shapes that OpenAI's clients already speak.

    client ──► guard ──► routes ──► Job ──► Scheduler ──► RemoteModel ══► EngineWorker
    (HTTP)     (key,     (bodies    (a      (one thread:   (pipe)          (a process of
               host,     to parts)  request) text ahead of                  its own)
               bytes)                  │     long decoding,
                                       │     bounded queue,
    client ◄── answers, SSE ◄──────────┘     deadlines)

The same request and seed give the same bytes as `AnyToAny.generate`. Needs the extra `serve`;
nothing here is imported by `import anyany`.
"""
