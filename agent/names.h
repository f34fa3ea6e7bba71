/*
 * names.h - Python strings that the hot path compares or looks up, interned
 * once, so that a look-up in a scope needs no hashing.
 */
#ifndef LG_AGENT_NAMES_H
#define LG_AGENT_NAMES_H

#include <Python.h>

/* X(identifier, text) */
#define LG_NAMES(X) \
    X(type, "type") \
    X(http, "http") \
    X(websocket, "websocket") \
    X(lifespan, "lifespan") \
    X(method, "method") \
    X(headers, "headers") \
    X(status, "status") \
    X(more_body, "more_body") \
    X(response, "http.response.") \
    X(response_start, "http.response.start") \
    X(response_body, "http.response.body") \
    X(websocket_accept, "websocket.accept") \
    X(response_pathsend, "http.response.pathsend") \
    X(shutdown_complete, "lifespan.shutdown.complete") \
    X(route, "route") \
    X(endpoint, "endpoint") \
    X(router, "router") \
    X(path, "path") \
    X(root_path, "root_path") \
    X(state, "state") \
    X(loopguard_request_id, "loopguard_request_id") \
    X(fastapi, "fastapi") \
    X(effective_route_context, "effective_route_context") \
    X(handle, "handle") \
    X(loop, "loop") \
    X(send, "send") \
    X(throw_, "throw") \
    X(close, "close") \
    X(get_name, "get_name") \
    X(cr_code, "cr_code") \
    X(gi_code, "gi_code") \
    X(qualname, "__qualname__") \
    X(call, "__call__") \
    X(get_task_factory, "get_task_factory") \
    X(set_task_factory, "set_task_factory")

struct lg_names {
#define LG_X(identifier, text) PyObject *identifier;
    LG_NAMES(LG_X)
#undef LG_X
    PyObject *methods[12];              /* by enum lg_method */
};

/* 0, or -1 with MemoryError. */
int lg_names_init(struct lg_names *names);
void lg_names_clear(struct lg_names *names);

/* Number of an HTTP method, LG_METHOD_OTHER when it is none of ours. */
int lg_names_method(const struct lg_names *names, PyObject *method);

#endif
