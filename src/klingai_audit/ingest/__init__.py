"""`ingest`: events of programs in other languages, taken over HTTP and answered with receipts.

The way of a request: `endpoint` reads and answers, `packing` unpacks, `reading` and `cloudevents` make drafts,
`producers` says who may claim what, `intake` appends each event once, `memory` knows the event ids of the last 24
hours. `wire` has the shapes of what goes in and out, `openapi` describes them, `server` is the web application.
"""
