/*
 * route.h - the template of a route, known before its handler runs.
 *
 * Starlette's routes have a method `handle`; ours stands before it, names the
 * endpoint of the running request from (mounts passed, route object, context
 * of an included router) and calls on. The Python namer is asked once for each
 * of these, at first sight; after that a request pays one look-up by address.
 * The table holds a reference to each route, so an address cannot be reused.
 * Under the GIL.
 */
#ifndef LG_AGENT_ROUTE_H
#define LG_AGENT_ROUTE_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

struct lg_agent;
struct lg_owner;

#define LG_ROUTE_SLOTS 1024u            /* a power of two */

struct lg_route_slot {
    PyObject *route;                    /* strong; NULL = free */
    PyObject *context;                  /* strong; of FastAPI's included routers, or NULL */
    uint32_t mount;                     /* mounts passed before it */
    uint8_t method;
    bool is_mount;
    uint32_t value;                     /* endpoint, or the number of the prefix it leads to */
};

struct lg_routes {
    PyObject *namer;                    /* namer(route, scope, prefix) -> str, or NULL */
    struct lg_route_slot *slots;
    uint32_t used;
    uint16_t unrouted[2][2][12];        /* endpoints of requests without a route: by
                                           websocket, by routed, by method; 0 = not yet */
    PyObject *prefixes;                 /* list of str by mount number; [0] is "" */
};

/* Builds the object that stands in for `original` as the class attribute
 * `handle`. New reference. */
PyObject *lg_route_handle(struct lg_agent *agent, PyObject *original, bool is_mount);

/* The namer; NULL or None removes it. */
int lg_route_set_namer(struct lg_agent *agent, PyObject *namer);

/* At the answer, or the end, of a request that no handle named: scope's own words, in the
 * order of the design (route, the mount it ended in, "(unmatched)",
 * "(unknown)"); a 404 in a mounted application met no route. Leaves no
 * exception set; the owner always has an endpoint after it, but when the table
 * of names was in use. */
void lg_route_name_at_end(struct lg_agent *agent, struct lg_owner *owner, PyObject *scope);

void lg_route_clear(struct lg_agent *agent);

/* Adds the type of the stand-in to the module. */
int lg_route_add_types(PyObject *module, struct lg_agent *agent);

#endif
