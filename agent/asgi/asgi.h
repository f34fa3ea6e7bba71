/*
 * asgi.h - the wrapped ASGI application: opens a record for each request,
 * websocket and lifespan, and stands around the application's coroutine and
 * its `send`.
 *
 * An exception, a return value or a cancellation passes through as it is. When
 * anything of ours cannot be had, the application is called as if we were not
 * there. Under the GIL.
 */
#ifndef LG_AGENT_ASGI_H
#define LG_AGENT_ASGI_H

#include <Python.h>

struct lg_agent;

/* A callable around `app`, whose answers follow the rules of `dict`: None, or that of
 * answer.h. An application already wrapped is returned as it is, unless the
 * rules want something done with its answers: those of each wrapper hold, and
 * an answer gets its headers once, from the innermost that adds them. New
 * reference; NULL with an exception for bad rules. */
PyObject *lg_asgi_wrap(struct lg_agent *agent, PyObject *app, PyObject *dict);

int lg_asgi_add_types(PyObject *module, struct lg_agent *agent);
void lg_asgi_trim(void);

#endif
