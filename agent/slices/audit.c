/*
 * audit.c - see audit.h.
 */
#include "audit.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/lg_clock.h"
#include "../agent.h"
#include "../pycompat.h"
#include "slice.h"

#define PLACES 512u                     /* a power of two */
#define NAMES_MAX 384u
#define LOOP_BORDER (-1) /* weight of the event that a loop's run begins and ends by */

struct watched {
    uint64_t hash; /* 0 = free */
    PyObject *name;
    int weight;
};

struct lg_audit {
    struct watched place[PLACES];
    uint32_t used;
    unsigned long asking; /* thread that makes a loop known just now, 0 = none */
};

struct wrapped {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *original;
    PyObject *name;
    PyObject *attributes; /* __dict__ */
    struct lg_agent *agent;
    int weight;
};

static int hook(const char *event, PyObject *args, void *data);
static struct watched *find(const struct lg_audit *audit, const char *event);
static int put(struct lg_audit *audit, const char *text, PyObject *name, int weight);
static uint64_t hash_of(const char *text);
static struct lg_loop *make_known(struct lg_agent *agent);
static PyObject *wrapped_call(PyObject *op, PyObject *const *args, size_t nargsf,
                              PyObject *kwnames);
static PyObject *pack(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
static bool is_non_blocking(PyObject *first);

/* ---- the hook ------------------------------------------------------------ */

int
lg_audit_watch(struct lg_agent *agent, PyObject *weights)
{
    if (!PyDict_Check(weights) || (size_t)PyDict_GET_SIZE(weights) >= NAMES_MAX) {
        PyErr_SetString(PyExc_ValueError, "events must be a dict of at most 383 names");
        return -1;
    }
    struct lg_audit *audit = calloc(1, sizeof(*audit));
    if (audit == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *key;
    PyObject *value;
    Py_ssize_t at = 0;
    int err = put(audit, "sys.set_asyncgen_hook_firstiter", Py_None, LOOP_BORDER);
    while (err == 0 && PyDict_Next(weights, &at, &key, &value)) {
        const char *text = PyUnicode_AsUTF8(key);
        long weight = text != NULL ? PyLong_AsLong(value) : -1;
        err = PyErr_Occurred() != NULL || weight < 0 || weight > 1000000
                  ? -1
                  : put(audit, text, key, (int)weight);
    }
    bool first = agent->audit == NULL;
    if (err != 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a weight must lie in 0..1000000");
        }
        for (uint32_t i = 0; i < PLACES; i++) {
            Py_XDECREF(audit->place[i].name);
        }
        free(audit);
        return -1;
    }
    /* An older table stays: a call of the hook may be reading it, and there is
     * one a process, or two. */
    agent->audit = audit;
    return first ? PySys_AddAuditHook(hook, agent) : 0;
}

static int
hook(const char *event, PyObject *args, void *data)
{
    struct lg_agent *agent = data;
    if (__builtin_expect(agent->slices == NULL, 1)) {
        return 0;
    }
    const struct watched *watched = find(agent->audit, event);
    if (watched == NULL) {
        return 0;
    }
    struct lg_loop *loop = lg_loop_current();
    if (watched->weight == LOOP_BORDER) {
        lg_slice_left(agent);
        return 0;
    }
    if (loop == NULL) {
        loop = make_known(agent);
    }
    if (loop == NULL || !lg_slice_is_open(loop)) {
        return 0;
    }
    PyObject *some = args != NULL ? Py_NewRef(args) : PyTuple_New(0);
    uint64_t token;
    int err = some != NULL ? lg_slice_call(loop, watched->name, some, watched->weight, &token) : 0;
    Py_XDECREF(some);
    if (err == 0) {
        PyErr_Clear();
    }
    return err;
}

static struct watched *
find(const struct lg_audit *audit, const char *event)
{
    uint64_t hash = hash_of(event);
    uint32_t at = (uint32_t)hash & (PLACES - 1);
    while (audit->place[at].hash != 0) {
        if (audit->place[at].hash == hash) {
            return (struct watched *)&audit->place[at];
        }
        at = (at + 1) & (PLACES - 1);
    }
    return NULL;
}

static int
put(struct lg_audit *audit, const char *text, PyObject *name, int weight)
{
    uint64_t hash = hash_of(text);
    uint32_t at = (uint32_t)hash & (PLACES - 1);
    while (audit->place[at].hash != 0) {
        at = (at + 1) & (PLACES - 1);
    }
    audit->place[at] = (struct watched){hash, Py_NewRef(name), weight};
    audit->used++;
    return 0;
}

/* FNV-1a, 64 bits: the few hundred names of all Pythons do not collide in it. */
static uint64_t
hash_of(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text != '\0'; text++) {
        hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* A loop runs in this thread that the agent has not met. That asks Python code,
 * which raises events of its own. */
static struct lg_loop *
make_known(struct lg_agent *agent)
{
    if ((agent->state != LG_AGENT_ARMED && agent->state != LG_AGENT_AWAKE) ||
        agent->get_running_loop == NULL || agent->audit->asking != 0) {
        return NULL;
    }
    struct lg_audit *audit = agent->audit;
    audit->asking = PyThread_get_thread_ident();
    PyObject *py_loop = PyObject_CallNoArgs(agent->get_running_loop);
    struct lg_loop *loop = NULL;
    if (py_loop != NULL && py_loop != Py_None) {
        loop = lg_loop_here(agent);
    }
    Py_XDECREF(py_loop);
    PyErr_Clear();
    audit->asking = 0;
    return loop;
}

/* ---- a wrapped function -------------------------------------------------- */

PyObject *
lg_audit_wrap(struct lg_agent *agent, PyObject *original, PyObject *name, int weight)
{
    PyTypeObject *type = (PyTypeObject *)agent->wrapped_type;
    struct wrapped *self = PyObject_GC_New(struct wrapped, type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = wrapped_call;
    self->original = Py_NewRef(original);
    self->name = Py_NewRef(name);
    self->attributes = NULL;
    self->agent = agent;
    self->weight = weight;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
wrapped_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct wrapped *self = (struct wrapped *)op;
    struct lg_agent *agent = self->agent;
    struct lg_loop *loop = agent->slices != NULL ? lg_loop_current() : NULL;
    if (agent->slices != NULL && loop == NULL && agent->audit != NULL) {
        loop = make_known(agent);
    }
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (loop == NULL || agent->audit == NULL || !lg_slice_is_open(loop) ||
        (nargs > 0 && is_non_blocking(args[0]))) {
        return PyObject_Vectorcall(self->original, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET,
                                   kwnames);
    }
    uint64_t token = 0;
    PyObject *packed = pack(args, nargs, kwnames);
    if (packed == NULL) {
        PyErr_Clear();
    }
    else {
        int err = lg_slice_call(loop, self->name, packed, self->weight, &token);
        Py_DECREF(packed);
        if (err < 0) {
            return NULL;
        }
    }
    uint64_t start = lg_now_ns();
    PyObject *result = PyObject_Vectorcall(self->original, args,
                                           nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
    if (token != 0 && lg_loop_current() == loop) {
        lg_slice_took(loop, token, lg_now_ns() - start);
    }
    return result;
}

/* (args, kwargs): what sys.audit() is given by those that wrap in Python. */
static PyObject *
pack(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *positional = PyTuple_New(nargs);
    PyObject *keywords = PyDict_New();
    if (positional == NULL || keywords == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    }
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyDict_SetItem(keywords, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) {
            Py_CLEAR(keywords);
            goto done;
        }
    }
done:
    if (positional == NULL || keywords == NULL) {
        Py_XDECREF(positional);
        Py_XDECREF(keywords);
        return NULL;
    }
    return Py_BuildValue("(NN)", positional, keywords);
}

/* A socket with timeout 0; a path or a descriptor is none. */
static bool
is_non_blocking(PyObject *first)
{
    if (PyUnicode_CheckExact(first) || PyLong_CheckExact(first) || PyBytes_CheckExact(first)) {
        return false;
    }
    PyObject *timeout = NULL;
    if (PyObject_HasAttrString(first, "gettimeout")) {
        timeout = PyObject_CallMethod(first, "gettimeout", NULL);
    }
    bool is_zero = timeout != NULL && PyFloat_Check(timeout) && PyFloat_AS_DOUBLE(timeout) == 0.0;
    Py_XDECREF(timeout);
    PyErr_Clear();
    return is_zero;
}

static PyObject *
wrapped_get(PyObject *op, PyObject *instance, PyObject *owner)
{
    struct wrapped *self = (struct wrapped *)op;
    if (instance == NULL || instance == Py_None) {
        return Py_NewRef(op);
    }
    if (Py_TYPE(self->original)->tp_descr_get == NULL || PyCFunction_Check(self->original)) {
        return Py_NewRef(op); /* a plain function of C binds to nothing */
    }
    (void)owner;
    return PyMethod_New(op, instance);
}

/* Attributes of its own first: functools.wraps() and others set some. */
static PyObject *
wrapped_getattro(PyObject *op, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(((struct wrapped *)op)->original, name);
    }
    return value;
}

static Py_hash_t
wrapped_hash(PyObject *op)
{
    return PyObject_Hash(((struct wrapped *)op)->original);
}

/* As a member of os.supports_fd and the like it is what it wraps. */
static PyObject *
wrapped_compare(PyObject *a, PyObject *b, int how)
{
    if (how != Py_EQ && how != Py_NE) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *original = ((struct wrapped *)a)->original;
    PyObject *other = Py_TYPE(b) == Py_TYPE(a) ? ((struct wrapped *)b)->original : b;
    return PyBool_FromLong((original == other) == (how == Py_EQ));
}

static PyObject *
wrapped_repr(PyObject *op)
{
    return PyObject_Repr(((struct wrapped *)op)->original);
}

static PyObject *
wrapped_reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return PyObject_GetAttrString(((struct wrapped *)op)->original, "__qualname__");
}

static int
wrapped_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct wrapped *self = (struct wrapped *)op;
    LG_VISIT_TYPE(self);
    Py_VISIT(self->original);
    Py_VISIT(self->attributes);
    return 0;
}

static void
wrapped_dealloc(PyObject *op)
{
    struct wrapped *self = (struct wrapped *)op;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->original);
    Py_CLEAR(self->name);
    Py_CLEAR(self->attributes);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMethodDef wrapped_methods[] = {
    {"__reduce__", wrapped_reduce, METH_NOARGS,
     PyDoc_STR("Pickled by its name, as the function that it wraps.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef wrapped_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct wrapped, vectorcall), Py_READONLY,
     NULL},
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(struct wrapped, attributes), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef wrapped_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot wrapped_slots[] = {
    {Py_tp_dealloc, wrapped_dealloc},     {Py_tp_traverse, wrapped_traverse},
    {Py_tp_call, PyVectorcall_Call},      {Py_tp_descr_get, wrapped_get},
    {Py_tp_getattro, wrapped_getattro},   {Py_tp_hash, wrapped_hash},
    {Py_tp_richcompare, wrapped_compare}, {Py_tp_repr, wrapped_repr},
    {Py_tp_methods, wrapped_methods},     {Py_tp_members, wrapped_members},
    {Py_tp_getset, wrapped_getset},       {0, NULL},
};

static PyType_Spec wrapped_spec = {
    .name = "loopguard._agent.Audited",
    .basicsize = sizeof(struct wrapped),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = wrapped_slots,
};

int
lg_audit_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->wrapped_type = PyType_FromModuleAndSpec(module, &wrapped_spec, NULL);
    return agent->wrapped_type == NULL ? -1 : 0;
}
