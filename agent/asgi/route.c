/*
 * route.c - stand-ins for the `handle` methods of routes.
 */
#include "route.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/lg_clock.h"
#include "../agent.h"
#include "../names.h"
#include "../pycompat.h"

struct handle {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *original;
    struct lg_agent *agent;
    bool is_mount;
};

static PyObject *handle_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);
static int name_from_route(struct lg_agent *agent, struct lg_owner *owner, PyObject *route,
                           PyObject *scope, bool is_mount);
static PyObject *included_context(struct lg_agent *agent, PyObject *scope);
static struct lg_route_slot *find_slot(struct lg_routes *routes, PyObject *route, PyObject *context,
                                       const struct lg_owner *owner, bool is_mount);
static PyObject *ask_namer(struct lg_agent *agent, struct lg_owner *owner, PyObject *route,
                           PyObject *scope);
static int prefix_number(struct lg_routes *routes, PyObject *prefix);
static int endpoint_of(struct lg_agent *agent, struct lg_owner *owner, PyObject *text);
static void raise_soon(void);
static void name_as_mount(struct lg_agent *agent, struct lg_owner *owner);
static void name_unrouted(struct lg_agent *agent, struct lg_owner *owner, bool routed);
static void name_as(struct lg_agent *agent, struct lg_owner *owner, const char *text);

/* ---- the stand-in ------------------------------------------------------ */

PyObject *
lg_route_handle(struct lg_agent *agent, PyObject *original, bool is_mount)
{
    struct handle *self = PyObject_GC_New(struct handle, (PyTypeObject *)agent->route_type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = handle_call;
    self->original = Py_NewRef(original);
    self->agent = agent;
    self->is_mount = is_mount;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Called as handle(route, scope, receive, send). */
static PyObject *
handle_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct handle *self = (struct handle *)op;
    if (PyVectorcall_NARGS(nargsf) >= 2 && PyDict_Check(args[1])) {
        struct lg_loop *loop = lg_loop_current();
        struct lg_owner *owner = loop != NULL ? loop->running : NULL;
        if (owner != NULL && owner->endpoint < 0 && lg_owner_is_current(owner) &&
            name_from_route(self->agent, owner, args[0], args[1], self->is_mount) < 0) {
            return NULL;
        }
    }
    return PyObject_Vectorcall(self->original, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET,
                               kwnames);
}

/* -1 with an exception set: the program is being ended (see ask_namer()). */
static int
name_from_route(struct lg_agent *agent, struct lg_owner *owner, PyObject *route, PyObject *scope,
                bool is_mount)
{
    struct lg_routes *routes = &agent->routes;
    PyObject *context = included_context(agent, scope);     /* borrowed */
    struct lg_route_slot *slot = find_slot(routes, route, context, owner, is_mount);
    if (slot == NULL) {
        return 0;                       /* no memory for the table */
    }
    if (slot->route == NULL) {
        PyObject *text = ask_namer(agent, owner, route, scope);
        if (text == NULL) {
            return PyErr_Occurred() ? -1 : 0;
        }
        /* The namer is Python: another thread may have used the table, or have
         * stopped the agent. */
        if (!lg_owner_is_current(owner)) {
            Py_DECREF(text);
            return 0;
        }
        slot = find_slot(routes, route, context, owner, is_mount);
        if (slot == NULL) {
            Py_DECREF(text);
            return 0;
        }
        int value = is_mount ? prefix_number(routes, text) : endpoint_of(agent, owner, text);
        Py_DECREF(text);
        if (value < 0) {
            return 0;                   /* the names were in use: asked again next time */
        }
        if (slot->route == NULL && routes->used >= LG_ROUTE_SLOTS * 3 / 4) {
            /* Routes made anew for each request: named right, not kept. */
            if (is_mount) {
                owner->mount = (uint32_t)value;
            }
            else {
                lg_owner_name(owner, (uint32_t)value, owner->start_ns);
            }
            return 0;
        }
        if (slot->route == NULL) {
            routes->used++;
            slot->route = Py_NewRef(route);
            slot->context = Py_XNewRef(context);
            slot->mount = owner->mount;
            slot->method = owner->method;
            slot->is_mount = is_mount;
            slot->value = (uint32_t)value;
        }
    }
    if (is_mount) {
        owner->mount = slot->value;
    }
    else {
        lg_owner_name(owner, slot->value, owner->start_ns);
    }
    return 0;
}

/* FastAPI keeps the prefix of an included router in a context beside the
 * route, so one route object may stand for several templates. Nor does the
 * context alone name one: that of a mount stays in the scope of all the routes
 * in it. Borrowed, or NULL. */
static PyObject *
included_context(struct lg_agent *agent, PyObject *scope)
{
    PyObject *context = NULL;
    PyObject *fastapi = PyDict_GetItemWithError(scope, agent->names->fastapi);
    if (fastapi != NULL && PyDict_Check(fastapi)) {
        context = PyDict_GetItemWithError(fastapi, agent->names->effective_route_context);
    }
    PyErr_Clear();
    return context == Py_None ? NULL : context;
}

static struct lg_route_slot *
find_slot(struct lg_routes *routes, PyObject *route, PyObject *context,
          const struct lg_owner *owner, bool is_mount)
{
    if (routes->slots == NULL) {
        routes->slots = calloc(LG_ROUTE_SLOTS, sizeof(*routes->slots));
        if (routes->slots == NULL) {
            return NULL;
        }
    }
    uintptr_t addresses = ((uintptr_t)route >> 4) * 31 + ((uintptr_t)context >> 4);
    uint32_t at = (uint32_t)(addresses * 31 + owner->mount * 7 + owner->method);
    for (;; at++) {
        struct lg_route_slot *slot = &routes->slots[at & (LG_ROUTE_SLOTS - 1)];
        if (slot->route == NULL ||
            (slot->route == route && slot->context == context && slot->mount == owner->mount &&
             slot->method == owner->method && slot->is_mount == is_mount)) {
            return slot;
        }
    }
}

/* New reference to a str, or NULL. The namer's own failure is not raised; what
 * ends a program is: a signal handler may raise KeyboardInterrupt or SystemExit
 * in any Python code, so also in this. */
static PyObject *
ask_namer(struct lg_agent *agent, struct lg_owner *owner, PyObject *route, PyObject *scope)
{
    struct lg_routes *routes = &agent->routes;
    if (routes->namer == NULL) {
        return NULL;
    }
    if (routes->prefixes == NULL) {
        routes->prefixes = Py_BuildValue("[s]", "");
    }
    PyObject *prefix = routes->prefixes == NULL
                           ? NULL
                           : PyList_GetItem(routes->prefixes, (Py_ssize_t)owner->mount);
    PyObject *text = NULL;
    if (prefix != NULL) {
        Py_INCREF(prefix);              /* the table may go meanwhile */
        text = PyObject_CallFunctionObjArgs(routes->namer, route, scope, prefix, NULL);
        Py_DECREF(prefix);
    }
    if (text != NULL && !PyUnicode_Check(text)) {
        Py_CLEAR(text);
    }
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();                  /* its failure must not be the application's */
        lg_agent_feature(agent, LG_FEATURE_ROUTES, false, "the route namer failed");
    }
    return text;
}

static int
prefix_number(struct lg_routes *routes, PyObject *prefix)
{
    Py_ssize_t n = PyList_GET_SIZE(routes->prefixes);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyUnicode_Compare(PyList_GET_ITEM(routes->prefixes, i), prefix) == 0) {
            return (int)i;
        }
    }
    if (n >= (Py_ssize_t)LG_ROUTE_SLOTS || PyList_Append(routes->prefixes, prefix) < 0) {
        PyErr_Clear();
        return 0;
    }
    return (int)n;
}

static int
endpoint_of(struct lg_agent *agent, struct lg_owner *owner, PyObject *text)
{
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(text, &size);
    if (name == NULL) {
        PyErr_Clear();
        name = "(unknown)";
        size = 9;
    }
    return lg_agent_endpoint(agent, owner->kind, owner->method, name, (size_t)size,
                             owner->start_ns);
}

/* ---- at the end -------------------------------------------------------- */

void
lg_route_name_at_end(struct lg_agent *agent, struct lg_owner *owner, PyObject *scope)
{
    if (!lg_owner_is_current(owner) || !PyDict_Check(scope)) {
        return;
    }
    struct lg_pending pending;
    lg_pending_save(&pending);
    PyObject *route = PyDict_GetItemWithError(scope, agent->names->route);
    /* Starlette leaves the mount there when nothing in it matched. */
    bool in_mount = owner->mount != 0 &&
                    (route == NULL || route == Py_None || PyObject_HasAttrString(route, "routes"));
    if (!lg_owner_is_current(owner)) {
        in_mount = false;               /* stopped while `routes` was looked for */
        route = NULL;
    }
    if (in_mount && owner->status != 404) {
        name_as_mount(agent, owner);
    }
    else if (!in_mount && route != NULL && route != Py_None &&
             name_from_route(agent, owner, route, scope, false) < 0) {
        raise_soon();
    }
    if (owner->endpoint < 0 && lg_owner_is_current(owner)) {
        /* A router looked and found nothing; or nobody routes here at all. */
        bool routed = PyDict_GetItemWithError(scope, agent->names->router) != NULL ||
                      PyDict_GetItemWithError(scope, agent->names->endpoint) != NULL;
        name_unrouted(agent, owner, routed);
    }
    PyErr_Clear();
    lg_pending_restore(&pending);
}

/* The application has already returned: what ends the program is raised anew in
 * the code that runs next. */
static void
raise_soon(void)
{
    PyObject *type = PyErr_Occurred();  /* borrowed */
    (void)PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), type);
    PyErr_Clear();
}

/* Static files, an application of another framework: known by its mount. */
static void
name_as_mount(struct lg_agent *agent, struct lg_owner *owner)
{
    PyObject *prefixes = agent->routes.prefixes;
    PyObject *prefix = prefixes != NULL ? PyList_GetItem(prefixes, (Py_ssize_t)owner->mount) : NULL;
    int endpoint = prefix != NULL ? endpoint_of(agent, owner, prefix) : -1;
    if (endpoint >= 0) {
        lg_owner_name(owner, (uint32_t)endpoint, owner->start_ns);
    }
    PyErr_Clear();
}

/* As name_as(), by a table: a flood of 404s costs no look-up of names. */
static void
name_unrouted(struct lg_agent *agent, struct lg_owner *owner, bool routed)
{
    uint16_t *known =
        &agent->routes.unrouted[owner->kind == LG_KIND_WEBSOCKET][routed][owner->method];
    if (*known != 0) {
        lg_owner_name(owner, *known, owner->start_ns);
        return;
    }
    name_as(agent, owner, routed ? "(unmatched)" : "(unknown)");
    if (owner->endpoint > 0) {
        *known = (uint16_t)owner->endpoint;
    }
}

static void
name_as(struct lg_agent *agent, struct lg_owner *owner, const char *text)
{
    int endpoint =
        lg_agent_endpoint(agent, owner->kind, owner->method, text, strlen(text), owner->start_ns);
    if (endpoint >= 0) {
        lg_owner_name(owner, (uint32_t)endpoint, owner->start_ns);
    }
}

/* ---- life -------------------------------------------------------------- */

int
lg_route_set_namer(struct lg_agent *agent, PyObject *namer)
{
    if (namer == Py_None) {
        namer = NULL;
    }
    if (namer != NULL && !PyCallable_Check(namer)) {
        PyErr_Format(PyExc_TypeError, "the route namer must be callable, not %.100s",
                     Py_TYPE(namer)->tp_name);
        return -1;
    }
    Py_XSETREF(agent->routes.namer, Py_XNewRef(namer));
    return 0;
}

/* The namer stays: it is the package's, set once. */
void
lg_route_clear(struct lg_agent *agent)
{
    struct lg_routes *routes = &agent->routes;
    for (uint32_t i = 0; routes->slots != NULL && i < LG_ROUTE_SLOTS; i++) {
        Py_CLEAR(routes->slots[i].route);
        Py_CLEAR(routes->slots[i].context);
    }
    free(routes->slots);
    routes->slots = NULL;
    routes->used = 0;
    memset(routes->unrouted, 0, sizeof(routes->unrouted));
    Py_CLEAR(routes->prefixes);
}

/* ---- type -------------------------------------------------------------- */

/* Binds like a function: Route.handle -> route.handle. */
static PyObject *
handle_get(PyObject *op, PyObject *instance, PyObject *type)
{
    (void)type;
    if (instance == NULL || instance == Py_None) {
        return Py_NewRef(op);
    }
    return PyMethod_New(op, instance);
}

static PyObject *
handle_getattro(PyObject *op, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(op, name);
    struct handle *self = (struct handle *)op;
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(self->original, name);
    }
    return value;
}

/* No tp_clear: see asgi_traverse(). */
static int
handle_traverse(struct handle *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->original);
    return 0;
}

static void
handle_dealloc(struct handle *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->original);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef handle_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct handle, original), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct handle, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Names the endpoint of the running request, then handles it.")},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_getattro, handle_getattro},
    {Py_tp_descr_get, handle_get},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, handle_members},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "loopguard._agent.RouteHandle",
    .basicsize = sizeof(struct handle),
    /* As with functions, `route.handle(...)` then makes no bound method. */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | LG_TPFLAGS_CLOSED,
    .slots = handle_slots,
};

int
lg_route_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->route_type = PyType_FromModuleAndSpec(module, &handle_spec, NULL);
    return agent->route_type == NULL ? -1 : 0;
}
