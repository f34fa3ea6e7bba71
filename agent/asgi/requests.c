/*
 * requests.c - see requests.h.
 */
#include "requests.h"

#include <string.h>

#include "../agent.h"
#include "answer.h"
#include "../charge.h"
#include "../names.h"
#include "../pool.h"
#include "../pycompat.h"

static struct lg_owner *running_here(const struct lg_agent *agent);
static PyObject *describe(const struct lg_owner *owner);
static PyObject *from_scope(PyObject *scope, PyObject *name);
static PyObject *method_of(const struct lg_owner *owner, PyObject *scope);
static PyObject *route_of(const struct lg_owner *owner);

PyObject *
lg_requests_current(struct lg_agent *agent)
{
    struct lg_owner *owner = running_here(agent);
    return owner != NULL ? describe(owner) : Py_NewRef(Py_None);
}

static struct lg_owner *
running_here(const struct lg_agent *agent)
{
    struct lg_loop *loop = lg_loop_current();
    struct lg_owner *owner = loop != NULL ? loop->running : lg_pool_owner_here(agent);
    bool is_request =
        owner != NULL && (owner->kind == LG_KIND_REQUEST || owner->kind == LG_KIND_WEBSOCKET);
    return is_request && lg_owner_is_current(owner) ? owner : NULL;
}

PyObject *
lg_requests_open(struct lg_agent *agent)
{
    size_t count = 0;
    for (struct lg_owner *o = agent->open_owners; o != NULL; o = o->open_next) {
        count += lg_owner_is_current(o);
    }
    /* Held while they are described: making objects may run the collector, and
     * with it any Python code. */
    struct lg_owner **held = PyMem_Malloc((count + 1) * sizeof(*held));
    if (held == NULL) {
        return PyErr_NoMemory();
    }
    size_t at = count;
    for (struct lg_owner *o = agent->open_owners; o != NULL; o = o->open_next) {
        if (lg_owner_is_current(o)) {
            held[--at] = lg_owner_ref(o);       /* the list has the newest first */
        }
    }
    PyObject *list = PyList_New(0);
    for (size_t i = 0; i < count; i++) {
        PyObject *one = list != NULL ? describe(held[i]) : NULL;
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
        lg_owner_unref(held[i]);
    }
    PyMem_Free(held);
    return list;
}

static PyObject *
describe(const struct lg_owner *owner)
{
    const struct lg_names *names = owner->agent->names;
    struct lg_blocked blocked = lg_charge_blocked(owner);
    /* From here on Python code may run: what is read of it is read first. */
    double start_s = (double)owner->start_ns / 1e9;
    PyObject *scope = Py_XNewRef(owner->scope);
    PyObject *result = NULL;
    PyObject *id = lg_answer_id(owner);
    PyObject *route = route_of(owner);
    PyObject *method = method_of(owner, scope);
    PyObject *path = from_scope(scope, names->path);
    if (id != NULL && route != NULL && method != NULL && path != NULL) {
        result = Py_BuildValue("(OOOOdId)", id, method, path, route, start_s,
                               (unsigned int)blocked.count, (double)blocked.ns / 1e6);
    }
    Py_XDECREF(path);
    Py_XDECREF(method);
    Py_XDECREF(route);
    Py_XDECREF(id);
    Py_XDECREF(scope);
    return result;
}

/* A text of the scope, "" when it has none. New reference. */
static PyObject *
from_scope(PyObject *scope, PyObject *name)
{
    PyObject *value = scope != NULL ? PyDict_GetItemWithError(scope, name) : NULL;
    if (value != NULL && PyUnicode_Check(value)) {
        return Py_NewRef(value);
    }
    PyErr_Clear();
    return PyUnicode_FromStringAndSize("", 0);
}

static PyObject *
method_of(const struct lg_owner *owner, PyObject *scope)
{
    const struct lg_names *names = owner->agent->names;
    if (owner->method == LG_METHOD_OTHER) {
        return from_scope(scope, names->method);
    }
    return Py_NewRef(names->methods[owner->method]);
}

/* The endpoint's name, or None while it has none. */
static PyObject *
route_of(const struct lg_owner *owner)
{
    const struct lg_segment *seg = &owner->agent->rec.seg;
    if (owner->endpoint < 0) {
        return Py_NewRef(Py_None);
    }
    uint32_t name = LG_KEY_NAME(lg_load_relaxed(&seg->endpoints[owner->endpoint].key));
    const uint8_t *at = seg->strings + (size_t)name * 8;
    uint16_t length;
    memcpy(&length, at, sizeof(length));
    return PyUnicode_DecodeUTF8((const char *)at + sizeof(length), length, "replace");
}
