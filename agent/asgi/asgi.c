/*
 * asgi.c - the wrapped application and the wrapped send.
 */
#include "asgi.h"

#include <stddef.h>
#include <string.h>

#include "../../common/lg_clock.h"
#include "../agent.h"
#include "answer.h"
#include "../charge.h"
#include "../names.h"
#include "../pycompat.h"
#include "../step.h"
#include "../task.h"

struct asgi {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *app;
    PyObject *like;                     /* a coroutine function of our signature */
    struct lg_rules *rules;             /* strong; NULL: answers are left alone */
    struct lg_agent *agent;
};

struct send {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *send;
    PyObject *scope;                    /* until the owner has its name; or NULL */
    struct lg_owner *owner;
    struct lg_rules *rules;             /* strong; NULL: the answer is left alone */
    bool measures;                      /* false: an outer wrapper's send does */
    bool refused;                       /* what the application sends of its answer is dropped */
};

/* Messages bear the same few text constants of the server's and the framework's
 * code again and again, which no interpreter interns: known by address after
 * the first comparison. Strong references, under the GIL. */
struct seen_text {
    PyObject *text;
};
static struct seen_text seen_start;
static struct seen_text seen_body;

#define FREE_SENDS 64
static struct {
    struct send *slot[FREE_SENDS];
    int count;
} free_sends;

static PyObject *asgi_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);
static PyObject *open_request(struct asgi *self, PyObject *const *args, PyObject *type);
static bool is_measured(const struct lg_loop *loop, const struct lg_names *names, PyObject *scope);
static int scope_kind(const struct lg_names *names, PyObject *type);
static bool text_is(PyObject *text, PyObject *name);
static bool seen_text_is(struct seen_text *seen, PyObject *text, PyObject *name);
static PyObject *call_within(struct asgi *self, PyObject *const *args, struct lg_owner *outer,
                             int kind);
static bool answers(const struct lg_rules *rules, int kind, PyObject *scope);
static struct send *new_send(struct lg_agent *agent, PyObject *send, struct lg_owner *owner,
                             PyObject *scope, struct lg_rules *rules);
static PyObject *send_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames);
static PyObject *send_answer(struct send *self, PyObject *const *args, size_t nargsf,
                             PyObject *kwnames);
static bool is_of_response(PyObject *event, const struct lg_names *names);
static bool note_event(struct send *self, PyObject *event);
static void name_now(struct send *self);
static bool is_coroutine_like(PyObject *o);
static bool is_asgi3(PyObject *app);
static bool is_coroutine_function(PyObject *o);

/* ---- the application --------------------------------------------------- */

PyObject *
lg_asgi_wrap(struct lg_agent *agent, PyObject *app, PyObject *dict)
{
    PyTypeObject *type = (PyTypeObject *)agent->asgi_type;
    PyObject *made = lg_answer_rules(agent, dict);
    if (made == NULL) {
        return NULL;
    }
    struct lg_rules *rules = made != Py_None ? (struct lg_rules *)made : NULL;
    if (Py_TYPE(app) == type && (rules == NULL || !(rules->answers || rules->marks))) {
        Py_DECREF(made);
        return Py_NewRef(app);
    }
    struct asgi *self = PyObject_GC_New(struct asgi, type);
    if (self == NULL) {
        Py_DECREF(made);
        return NULL;
    }
    if (rules == NULL) {
        Py_DECREF(made);                /* None */
    }
    self->rules = rules;
    self->vectorcall = asgi_call;
    self->app = Py_NewRef(app);
    self->like = is_asgi3(app) ? Py_XNewRef(agent->like_function) : NULL;
    self->agent = agent;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* As servers decide it: an asynchronous function, or an object whose __call__ is
 * one. Anything else (the older protocol of two calls, WSGI) must not begin to
 * look like it. */
static bool
is_asgi3(PyObject *app)
{
    bool result = is_coroutine_function(app);
    if (!result && !PyFunction_Check(app)) {
        PyObject *call = PyObject_GetAttrString(app, PyType_Check(app) ? "__await__" : "__call__");
        result = call != NULL && (PyType_Check(app) || is_coroutine_function(call));
        Py_XDECREF(call);
    }
    PyErr_Clear();
    return result;
}

/* A function, a method or what looks like one, with the flag or with one of the
 * marks that asyncio and inspect accept. */
static bool
is_coroutine_function(PyObject *o)
{
    if (PyType_Check(o)) {
        return false;
    }
    PyObject *code = PyObject_GetAttrString(o, "__code__");
    PyObject *flags = code != NULL ? PyObject_GetAttrString(code, "co_flags") : NULL;
    bool result = flags != NULL && (PyLong_AsLong(flags) & CO_COROUTINE) != 0;
    Py_XDECREF(flags);
    Py_XDECREF(code);
    PyErr_Clear();
    return result || PyObject_HasAttrString(o, "_is_coroutine") ||
           PyObject_HasAttrString(o, "_is_coroutine_mark");
}

static PyObject *
asgi_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct asgi *self = (struct asgi *)op;
    struct lg_agent *agent = self->agent;
    if (PyVectorcall_NARGS(nargsf) == 3 && kwnames == NULL && PyDict_Check(args[0]) &&
        (agent->state == LG_AGENT_AWAKE || agent->state == LG_AGENT_ARMED)) {
        PyObject *type = PyDict_GetItemWithError(args[0], agent->names->type);
        if (type != NULL && PyUnicode_Check(type)) {
            return open_request(self, args, type);
        }
        if (PyErr_Occurred()) {
            PyErr_Clear();              /* an odd key in a scope is not our affair */
        }
    }
    return PyObject_Vectorcall(self->app, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
}

/* Opens the record, calls the application with our send, wraps its coroutine. */
static PyObject *
open_request(struct asgi *self, PyObject *const *args, PyObject *type)
{
    struct lg_agent *agent = self->agent;
    const struct lg_names *names = agent->names;
    struct lg_rules *rules = self->rules;
    PyObject *scope = args[0];
    int kind = scope_kind(names, type);
    if (rules != NULL && rules->selects && (kind == LG_KIND_REQUEST || kind == LG_KIND_WEBSOCKET)) {
        int wanted = lg_answer_wants(rules, scope);
        if (wanted < 0) {
            return NULL;
        }
        kind = wanted ? kind : -1;
    }
    struct lg_loop *loop = lg_loop_here(agent);
    if (loop != NULL && kind >= 0 && is_measured(loop, names, scope)) {
        return call_within(self, args, loop->running, kind);
    }
    if (loop == NULL || kind < 0 || (agent->paused && kind != LG_KIND_LIFESPAN)) {
        return PyObject_Vectorcall(self->app, args, 3, NULL);
    }
    struct lg_owner *owner = lg_owner_new(agent, kind, lg_now_ns());
    if (owner == NULL) {
        return PyObject_Vectorcall(self->app, args, 3, NULL);
    }
    owner->rules = Py_XNewRef((PyObject *)rules);
    owner->id = agent->next_request_id += UINT32_C(0x9e3779b1);
    if (kind == LG_KIND_REQUEST) {
        owner->method =
            (uint8_t)lg_names_method(names, PyDict_GetItemWithError(scope, names->method));
    }
    else if (kind == LG_KIND_WEBSOCKET) {
        owner->method = LG_METHOD_WS;
    }
    else {
        /* A process may live through several, one after the other. */
        lg_store32_release(&agent->rec.seg.header->state, LG_STATE_RUNNING);
        int endpoint = lg_agent_endpoint(agent, LG_KIND_LIFESPAN, LG_METHOD_NONE, "(lifespan)", 10,
                                         owner->start_ns);
        if (endpoint >= 0) {
            lg_owner_name(owner, (uint32_t)endpoint, owner->start_ns);
        }
    }
    PyErr_Clear();
    if (kind == LG_KIND_LIFESPAN || (loop->requests_opened++ & 1023) == 0) {
        lg_task_check(agent, loop);     /* the application may set a factory of its own */
    }
    PyObject *result = NULL;
    bool answering = answers(rules, kind, scope);
    if (rules != NULL && rules->marks && kind == LG_KIND_REQUEST) {
        lg_answer_mark(owner, scope);
    }
    struct send *send = new_send(agent, args[2], owner, scope, answering ? rules : NULL);
    if (send != NULL) {
        PyObject *inner[3] = {scope, args[1], (PyObject *)send};
        result = PyObject_Vectorcall(self->app, inner, 3, NULL);
        Py_DECREF(send);
        if (result != NULL && is_coroutine_like(result)) {
            result = lg_step_wrap(agent, result, owner, scope);
        }
    }
    lg_owner_unref(owner);
    return result;
}

/* The step that runs belongs to this very request: an outer wrapper has it. A
 * middleware may have handed on a copy of the scope; the headers in it are then
 * the same list, or at least the state is the same dict. */
static bool
is_measured(const struct lg_loop *loop, const struct lg_names *names, PyObject *scope)
{
    PyObject *outer = loop->running != NULL ? loop->running->scope : NULL;
    if (outer == NULL || outer == scope) {
        return outer != NULL;
    }
    PyObject *headers = PyDict_GetItemWithError(scope, names->headers);
    bool same = headers != NULL && headers == PyDict_GetItemWithError(outer, names->headers);
    if (!same) {
        PyObject *state = PyDict_GetItemWithError(scope, names->state);
        same = state != NULL && state != Py_None &&
               state == PyDict_GetItemWithError(outer, names->state);
    }
    PyErr_Clear();
    return same;
}

/* An outer wrapper measures this request already; its answer may be ours. */
static PyObject *
call_within(struct asgi *self, PyObject *const *args, struct lg_owner *outer, int kind)
{
    if (self->rules != NULL && self->rules->marks && kind == LG_KIND_REQUEST) {
        lg_answer_mark(outer, args[0]);
    }
    if (!answers(self->rules, kind, args[0])) {
        return PyObject_Vectorcall(self->app, args, 3, NULL);
    }
    struct send *send = new_send(self->agent, args[2], outer, NULL, self->rules);
    if (send == NULL) {
        return NULL;
    }
    send->measures = false;
    PyObject *inner[3] = {args[0], args[1], (PyObject *)send};
    PyObject *result = PyObject_Vectorcall(self->app, inner, 3, NULL);
    Py_DECREF(send);
    return result;
}

/* Is there anything to do with the answer? */
static bool
answers(const struct lg_rules *rules, int kind, PyObject *scope)
{
    return rules != NULL && rules->answers && kind == LG_KIND_REQUEST &&
           !lg_answer_excludes(rules, scope);
}

/* enum lg_endpoint_kind, or -1 for a type that we do not know. */
static int
scope_kind(const struct lg_names *names, PyObject *type)
{
    if (text_is(type, names->http)) {
        return LG_KIND_REQUEST;
    }
    if (text_is(type, names->websocket)) {
        return LG_KIND_WEBSOCKET;
    }
    return text_is(type, names->lifespan) ? LG_KIND_LIFESPAN : -1;
}

/* Both are ready strings; ours is ASCII. */
static bool
text_is(PyObject *text, PyObject *name)
{
    if (text == name) {
        return true;
    }
    Py_ssize_t n = PyUnicode_GET_LENGTH(name);
    return PyUnicode_GET_LENGTH(text) == n && PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND &&
           memcmp(PyUnicode_1BYTE_DATA(text), PyUnicode_1BYTE_DATA(name), (size_t)n) == 0;
}

static bool
seen_text_is(struct seen_text *seen, PyObject *text, PyObject *name)
{
    if (text == seen->text) {
        return true;
    }
    if (!text_is(text, name)) {
        return false;
    }
    Py_XSETREF(seen->text, Py_NewRef(text));
    return true;
}

static bool
is_coroutine_like(PyObject *o)
{
    if (PyCoro_CheckExact(o)) {
        return true;
    }
    /* Compiled by Cython and the like: the whole protocol or nothing. */
    PyAsyncMethods *async = Py_TYPE(o)->tp_as_async;
    if (async == NULL || async->am_await == NULL || PyType_IsSubtype(Py_TYPE(o), &PyGen_Type)) {
        return false;
    }
    static const char *const needed[] = {"send", "throw", "close"};
    for (int i = 0; i < 3; i++) {
        PyObject *method = PyObject_GetAttrString(o, needed[i]);
        if (method == NULL) {
            PyErr_Clear();
            return false;
        }
        Py_DECREF(method);
    }
    return true;
}

/* No tp_clear, as with tuples: whatever cycle it is in goes through something
 * that has one, and nobody can meet it emptied. */
static int
asgi_traverse(struct asgi *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->app);
    Py_VISIT(self->like);
    Py_VISIT((PyObject *)self->rules);
    return 0;
}

static void
asgi_dealloc(struct asgi *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->app);
    Py_CLEAR(self->like);
    Py_CLEAR(self->rules);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* Looks like a coroutine function to inspect and asyncio (servers ask), and
 * like the application to everyone else. */
static PyObject *
asgi_getattro(PyObject *op, PyObject *name)
{
    struct asgi *self = (struct asgi *)op;
    static const char *const function_like[] = {
        "__code__", "__defaults__", "__kwdefaults__", "__annotations__",
        "__name__", "__qualname__", "_is_coroutine",
    };
    if (text_is(name, self->agent->names->call)) {
        if (self->like != NULL && self->agent->like_call != NULL) {
            return PyMethod_New(self->agent->like_call, op);
        }
        return Py_NewRef(op);
    }
    for (size_t i = 0; self->like != NULL && i < sizeof(function_like) / sizeof(char *); i++) {
        if (PyUnicode_CompareWithASCIIString(name, function_like[i]) == 0) {
            return PyObject_GetAttr(self->like, name);
        }
    }
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(self->app, name);
    }
    return value;
}

static int
asgi_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    return PyObject_SetAttr(((struct asgi *)op)->app, name, value);
}

static PyMemberDef asgi_members[] = {
    {"app", Py_T_OBJECT_EX, offsetof(struct asgi, app), Py_READONLY,
     PyDoc_STR("the application inside")},
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct asgi, app), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct asgi, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot asgi_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("An ASGI application whose time on the loop is measured.")},
    {Py_tp_dealloc, asgi_dealloc},
    {Py_tp_traverse, asgi_traverse},
    {Py_tp_getattro, asgi_getattro},
    {Py_tp_setattro, asgi_setattro},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, asgi_members},
    {0, NULL},
};

static PyType_Spec asgi_spec = {
    .name = "loopguard._agent.Asgi",
    .basicsize = sizeof(struct asgi),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = asgi_slots,
};

/* ---- send -------------------------------------------------------------- */

static struct send *
new_send(struct lg_agent *agent, PyObject *send, struct lg_owner *owner, PyObject *scope,
         struct lg_rules *rules)
{
    PyTypeObject *type = (PyTypeObject *)agent->send_type;
    struct send *self;
    if (free_sends.count > 0) {
        self = free_sends.slot[--free_sends.count];
        (void)PyObject_Init((PyObject *)self, type);
    }
    else {
        self = PyObject_GC_New(struct send, type);
        if (self == NULL) {
            return NULL;
        }
    }
    self->vectorcall = send_call;
    self->send = Py_NewRef(send);
    self->scope = owner->kind == LG_KIND_LIFESPAN ? NULL : Py_XNewRef(scope);
    self->owner = lg_owner_ref(owner);
    self->rules = (struct lg_rules *)Py_XNewRef((PyObject *)rules);
    self->measures = true;
    self->refused = false;
    PyObject_GC_Track(self);
    return self;
}

static PyObject *
send_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct send *self = (struct send *)op;
    bool starts =
        PyVectorcall_NARGS(nargsf) >= 1 && PyDict_Check(args[0]) && note_event(self, args[0]);
    if (self->rules != NULL && (starts || self->refused)) {
        return send_answer(self, args, nargsf, kwnames);
    }
    return PyObject_Vectorcall(self->send, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
}

/* The start of an answer that is ours to change, or the rest of a refused one. */
static PyObject *
send_answer(struct send *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct lg_owner *owner = self->owner;
    PyObject *message = NULL;
    if (self->refused) {
        if (PyVectorcall_NARGS(nargsf) >= 1 && is_of_response(args[0], owner->agent->names)) {
            return PyObject_CallNoArgs(self->rules->swallow);
        }
    }
    else {
        PyObject *instead = lg_answer_start(self->rules, owner, self->send, args[0], &message);
        if (instead != NULL) {
            owner->status = 503;
            self->refused = true;
            return instead;
        }
        if (PyErr_Occurred()) {
            return NULL;                /* the application's headers raised it */
        }
    }
    if (message == NULL || PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        Py_XDECREF(message);
        return PyObject_Vectorcall(self->send, args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET,
                                   kwnames);
    }
    PyObject *result = PyObject_CallOneArg(self->send, message);
    Py_DECREF(message);
    return result;
}

static bool
is_of_response(PyObject *event, const struct lg_names *names)
{
    PyObject *type = PyDict_Check(event) ? PyDict_GetItemWithError(event, names->type) : NULL;
    PyErr_Clear();
    return type != NULL && PyUnicode_Check(type) &&
           PyUnicode_Tailmatch(type, names->response, 0, PY_SSIZE_T_MAX, -1) == 1;
}

/* True when an answer begins. */
static bool
note_event(struct send *self, PyObject *event)
{
    struct lg_owner *owner = self->owner;
    const struct lg_names *names = owner->agent->names;
    PyObject *type = PyDict_GetItemWithError(event, names->type);
    if (type == NULL) {
        PyErr_Clear();
        return false;
    }
    if (!PyUnicode_Check(type) || !lg_owner_is_current(owner)) {
        return false;
    }
    if (!self->measures) {
        return seen_text_is(&seen_start, type, names->response_start);
    }
    if (seen_text_is(&seen_body, type, names->response_body)) {
        PyObject *more = PyDict_GetItemWithError(event, names->more_body);
        if (more == NULL) {
            PyErr_Clear();
        }
        if ((more == NULL || more == Py_False) && !owner->response_sent) {
            lg_charge_response_sent(owner);
        }
    }
    else if (seen_text_is(&seen_start, type, names->response_start)) {
        PyObject *status = PyDict_GetItemWithError(event, names->status);
        long value = status != NULL && PyLong_Check(status) ? PyLong_AsLong(status) : 0;
        if (value >= 100 && value < 1000) {
            owner->status = (uint16_t)value;
        }
        else {
            PyErr_Clear();              /* none, or no such number */
        }
        name_now(self);
        return true;
    }
    else if (text_is(type, names->websocket_accept)) {
        name_now(self);
    }
    else if (text_is(type, names->response_pathsend)) {
        lg_charge_response_sent(owner);
    }
    else if (text_is(type, names->shutdown_complete)) {
        /* Servers may end by a signal from here: that is no crash. */
        lg_store32_release(&owner->agent->rec.seg.header->state, LG_STATE_EXITING);
    }
    return false;
}

/* Whoever answers has been found by now, or nobody will be: a stream or a
 * websocket has its name while it lasts, not only at its end. */
static void
name_now(struct send *self)
{
    if (self->scope != NULL) {
        if (self->owner->endpoint < 0) {
            lg_route_name_at_end(self->owner->agent, self->owner, self->scope);
        }
        Py_CLEAR(self->scope);
    }
}

/* No tp_clear: see asgi_traverse(). */
static int
send_traverse(struct send *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->send);
    Py_VISIT(self->scope);
    Py_VISIT((PyObject *)self->rules);
    return 0;
}

static void
send_dealloc(struct send *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->send);
    Py_CLEAR(self->scope);
    Py_CLEAR(self->rules);
    struct lg_owner *owner = self->owner;
    self->owner = NULL;
    if (owner != NULL) {
        lg_owner_unref(owner);
    }
    if (free_sends.count < FREE_SENDS) {
        free_sends.slot[free_sends.count++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

void
lg_asgi_trim(void)
{
    while (free_sends.count > 0) {
        PyObject_GC_Del(free_sends.slot[--free_sends.count]);
    }
    Py_CLEAR(seen_start.text);
    Py_CLEAR(seen_body.text);
}

static PyObject *
send_getattro(PyObject *op, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(op, name);
    struct send *self = (struct send *)op;
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(self->send, name);
    }
    return value;
}

static PyMemberDef send_members[] = {
    {"__wrapped__", Py_T_OBJECT_EX, offsetof(struct send, send), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct send, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot send_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The server's send, with status and end of body noted.")},
    {Py_tp_dealloc, send_dealloc},
    {Py_tp_traverse, send_traverse},
    {Py_tp_getattro, send_getattro},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, send_members},
    {0, NULL},
};

static PyType_Spec send_spec = {
    .name = "loopguard._agent.Send",
    .basicsize = sizeof(struct send),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_VECTORCALL | LG_TPFLAGS_CLOSED,
    .slots = send_slots,
};

int
lg_asgi_add_types(PyObject *module, struct lg_agent *agent)
{
    agent->asgi_type = PyType_FromModuleAndSpec(module, &asgi_spec, NULL);
    agent->send_type = PyType_FromModuleAndSpec(module, &send_spec, NULL);
    return agent->asgi_type == NULL || agent->send_type == NULL ? -1 : 0;
}
