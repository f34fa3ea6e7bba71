/*
 * audit.h - the blocking calls of an event loop's thread, by name: Python's
 * audit events (PEP 578), and functions of the standard library that raise
 * none and are wrapped for it.
 *
 * The one audit hook of the process can never be taken away again; it is added
 * when events are first asked for, and costs one load while slices are not
 * armed. What it finds goes into the slice that runs (slice.h); threads without
 * a loop, a loop's idle poll and our own Python code are passed by. All of it
 * under the GIL.
 */
#ifndef LG_AGENT_AUDIT_H
#define LG_AGENT_AUDIT_H

#include <Python.h>

struct lg_agent;
struct lg_audit;

/* Events to look for: a dict of name -> weight. Adds the hook the first time.
 * 0, or -1 with an exception set. */
int lg_audit_watch(struct lg_agent *agent, PyObject *weights);

/* A callable that does what `original` does and is taken for it (name,
 * signature, equality, hash); as a class's attribute it is a method. A call on a
 * loop's thread is told under `name`; on a socket that does not block
 * (timeout 0) it is not. New reference. */
PyObject *lg_audit_wrap(struct lg_agent *agent, PyObject *original, PyObject *name, int weight);

int lg_audit_add_types(PyObject *module, struct lg_agent *agent);

#endif
