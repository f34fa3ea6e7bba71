/*
 * answer.c - headers and refusals.
 *
 * Of an innocent answer only the id is made anew; its other headers are the
 * same three tuples each time.
 */
#include "answer.h"

#include <stdio.h>
#include <string.h>

#include "../../common/lg_clock.h"
#include "../agent.h"
#include "../charge.h"
#include "../names.h"
#include "../pycompat.h"

#define FIELDS_MAX 6
#define REQUEST_ID_LENGTH 8
#define TIMING_SIZE 96

/* What never changes, made once. */
struct lg_answer_parts {
    PyObject *request_id;               /* bytes */
    PyObject *count;
    PyObject *total_ms;
    PyObject *server_timing;
    PyObject *innocent[3];              /* tuples */
    PyObject *guilty;
    PyObject *warning;
};

/* Headers to add, new references. */
struct fields {
    PyObject *item[FIELDS_MAX];
    Py_ssize_t count;
};

static PyObject *item(PyObject *dict, const char *name);
static int take_flag(PyObject *dict, const char *name, bool *out);
static int take_object(PyObject *dict, const char *name, PyObject **out);
static int take_texts(PyObject *dict, const char *name, PyObject **out);
static bool is_switched_off(const struct lg_rules *rules, PyObject *scope);
static PyObject *pair_name(PyObject *pair, PyObject **value);
static bool same_ascii(PyObject *bytes, const char *lower, Py_ssize_t length);
static Py_ssize_t below_root(PyObject *path, PyObject *root);
static bool begins_with(PyObject *path, Py_ssize_t start, PyObject *text);
static void write_id(char out[REQUEST_ID_LENGTH], uint32_t id);
static PyObject *refuse(const struct lg_rules *rules, struct lg_owner *owner, PyObject *send,
                        const struct lg_blocked *blocked);
static PyObject *with_headers(const struct lg_rules *rules, struct lg_owner *owner, PyObject *own,
                              const struct lg_blocked *blocked, unsigned wanted);
static bool has_request_id(PyObject *list);
static void add_blocking(const struct lg_rules *rules, struct lg_owner *owner,
                         const struct lg_blocked *blocked, bool with_id, struct fields *f);
static void write_timing(const struct lg_owner *owner, char out[TIMING_SIZE]);
static void add(struct fields *f, PyObject *field);
static PyObject *pair_of_text(PyObject *name, const char *text);
static PyObject *pair_of(PyObject *name, PyObject *value);

/* ---- rules ------------------------------------------------------------- */

PyObject *
lg_answer_rules(struct lg_agent *agent, PyObject *dict)
{
    if (dict == Py_None) {
        return Py_NewRef(Py_None);
    }
    if (!PyDict_Check(dict)) {
        return PyErr_Format(PyExc_TypeError, "rules must be a dict or None, not %.100s",
                            Py_TYPE(dict)->tp_name);
    }
    PyTypeObject *type = (PyTypeObject *)agent->rules_type;
    struct lg_rules *self = (struct lg_rules *)type->tp_alloc(type, 0);     /* zeroed */
    if (self == NULL) {
        return NULL;
    }
    self->agent = agent;
    if (take_flag(dict, "headers", &self->headers) < 0 ||
        take_flag(dict, "warning", &self->warning) < 0 ||
        take_flag(dict, "strict", &self->strict) < 0 ||
        take_flag(dict, "server_timing", &self->server_timing) < 0 ||
        take_flag(dict, "marks", &self->marks) < 0 ||
        take_texts(dict, "exact_paths", &self->exact) < 0 ||
        take_texts(dict, "path_prefixes", &self->prefixes) < 0 ||
        take_object(dict, "request_filter", &self->filter) < 0 ||
        take_object(dict, "filter_failed", &self->filter_failed) < 0 ||
        take_object(dict, "switch_header", &self->switch_name) < 0 ||
        take_object(dict, "refuse", &self->refuse) < 0 ||
        take_object(dict, "swallow", &self->swallow) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->switch_name != NULL && !PyBytes_Check(self->switch_name)) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_TypeError, "switch_header must be bytes or None");
    }
    self->answers = self->headers || self->strict || self->server_timing;
    self->selects = self->filter != NULL || self->switch_name != NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->exact); i++) {
        Py_ssize_t n = PyUnicode_GET_LENGTH(PyTuple_GET_ITEM(self->exact, i));
        self->exact_lengths |= UINT64_C(1) << (n < 63 ? n : 63);
    }
    return (PyObject *)self;
}

/* Borrowed; KeyError when it is not there. */
static PyObject *
item(PyObject *dict, const char *name)
{
    PyObject *value = PyDict_GetItemString(dict, name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_KeyError, name);
    }
    return value;
}

static int
take_flag(PyObject *dict, const char *name, bool *out)
{
    PyObject *value = item(dict, name);
    int truth = value != NULL ? PyObject_IsTrue(value) : -1;
    *out = truth > 0;
    return truth < 0 ? -1 : 0;
}

/* None is NULL. */
static int
take_object(PyObject *dict, const char *name, PyObject **out)
{
    PyObject *value = item(dict, name);
    if (value == NULL) {
        return -1;
    }
    *out = value == Py_None ? NULL : Py_NewRef(value);
    return 0;
}

static int
take_texts(PyObject *dict, const char *name, PyObject **out)
{
    PyObject *value = item(dict, name);
    bool ok = value != NULL && PyTuple_Check(value);
    for (Py_ssize_t i = 0; ok && i < PyTuple_GET_SIZE(value); i++) {
        ok = PyUnicode_Check(PyTuple_GET_ITEM(value, i));
    }
    if (!ok) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "%s must be a tuple of str", name);
        }
        return -1;
    }
    *out = Py_NewRef(value);
    return 0;
}

/* ---- which requests ---------------------------------------------------- */

int
lg_answer_wants(const struct lg_rules *rules, PyObject *scope)
{
    if (rules->switch_name != NULL && is_switched_off(rules, scope)) {
        return 0;
    }
    if (rules->filter == NULL) {
        return 1;
    }
    PyObject *answer = PyObject_CallOneArg(rules->filter, scope);
    int wanted = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (wanted < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;                  /* KeyboardInterrupt, SystemExit: not ours to keep */
        }
        struct lg_pending failure;
        lg_pending_save(&failure);
        PyErr_NormalizeException(&failure.type, &failure.value, &failure.traceback);
        PyObject *told = rules->filter_failed != NULL && failure.value != NULL
                             ? PyObject_CallOneArg(rules->filter_failed, failure.value)
                             : NULL;
        Py_XDECREF(told);
        PyErr_Clear();
        Py_XDECREF(failure.type);
        Py_XDECREF(failure.value);
        Py_XDECREF(failure.traceback);
        wanted = 1;
    }
    return wanted;
}

static bool
is_switched_off(const struct lg_rules *rules, PyObject *scope)
{
    PyObject *headers = PyDict_GetItemWithError(scope, rules->agent->names->headers);
    if (headers == NULL || !(PyList_Check(headers) || PyTuple_Check(headers))) {
        PyErr_Clear();
        return false;
    }
    const char *name = PyBytes_AS_STRING(rules->switch_name);
    Py_ssize_t length = PyBytes_GET_SIZE(rules->switch_name);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(headers); i++) {
        PyObject *value = NULL;
        PyObject *key = pair_name(PySequence_Fast_GET_ITEM(headers, i), &value);
        if (key != NULL && same_ascii(key, name, length) && PyBytes_Check(value) &&
            same_ascii(value, "off", 3)) {
            return true;
        }
    }
    return false;
}

/* The name of a header pair, when it is bytes; borrowed, or NULL. */
static PyObject *
pair_name(PyObject *pair, PyObject **value)
{
    if (!(PyTuple_Check(pair) || PyList_Check(pair)) || PySequence_Fast_GET_SIZE(pair) != 2 ||
        !PyBytes_Check(PySequence_Fast_GET_ITEM(pair, 0))) {
        return NULL;
    }
    *value = PySequence_Fast_GET_ITEM(pair, 1);
    return PySequence_Fast_GET_ITEM(pair, 0);
}

static bool
same_ascii(PyObject *bytes, const char *lower, Py_ssize_t length)
{
    return PyBytes_GET_SIZE(bytes) == length &&
           PyOS_mystrnicmp(PyBytes_AS_STRING(bytes), lower, length) == 0;
}

bool
lg_answer_excludes(const struct lg_rules *rules, PyObject *scope)
{
    if (rules->exact_lengths == 0 && PyTuple_GET_SIZE(rules->prefixes) == 0) {
        return false;
    }
    const struct lg_names *names = rules->agent->names;
    PyObject *path = PyDict_GetItemWithError(scope, names->path);
    PyObject *root = PyDict_GetItemWithError(scope, names->root_path);
    if (path == NULL || !PyUnicode_Check(path)) {
        PyErr_Clear();
        return false;
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(path);
    Py_ssize_t start = root != NULL && PyUnicode_Check(root) ? below_root(path, root) : 0;
    Py_ssize_t rest = length - start;
    bool found = false;
    if ((rules->exact_lengths >> (rest < 63 ? rest : 63) & 1) != 0) {
        for (Py_ssize_t i = 0; !found && i < PyTuple_GET_SIZE(rules->exact); i++) {
            PyObject *text = PyTuple_GET_ITEM(rules->exact, i);
            found = PyUnicode_GET_LENGTH(text) == rest && begins_with(path, start, text);
        }
    }
    for (Py_ssize_t i = 0; !found && i < PyTuple_GET_SIZE(rules->prefixes); i++) {
        found = begins_with(path, start, PyTuple_GET_ITEM(rules->prefixes, i));
    }
    PyErr_Clear();
    return found;
}

/* Where the path goes on after root_path; 0 when it does not begin with it
 * (servers before ASGI 2.4 leave it out). As Starlette's get_route_path(). */
static Py_ssize_t
below_root(PyObject *path, PyObject *root)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(path);
    Py_ssize_t n = PyUnicode_GET_LENGTH(root);
    if (n == 0 || !begins_with(path, 0, root)) {
        return 0;
    }
    return n == length || PyUnicode_READ_CHAR(path, n) == '/' ? n : 0;
}

static bool
begins_with(PyObject *path, Py_ssize_t start, PyObject *text)
{
    Py_ssize_t n = PyUnicode_GET_LENGTH(text);
    Py_ssize_t length = PyUnicode_GET_LENGTH(path);
    if (n > length - start) {
        return false;
    }
    if (PyUnicode_KIND(path) == PyUnicode_1BYTE_KIND &&
        PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND) {
        return memcmp(PyUnicode_1BYTE_DATA(path) + start, PyUnicode_1BYTE_DATA(text), (size_t)n) ==
               0;
    }
    return PyUnicode_Tailmatch(path, text, start, length, -1) == 1;
}

/* ---- the id ------------------------------------------------------------ */

static void
write_id(char out[REQUEST_ID_LENGTH], uint32_t id)
{
    for (int i = 0; i < REQUEST_ID_LENGTH; i++) {
        out[i] = "0123456789abcdef"[id >> (28 - 4 * i) & 15];
    }
}

PyObject *
lg_answer_id(const struct lg_owner *owner)
{
    PyObject *text = PyUnicode_New(REQUEST_ID_LENGTH, 127);
    if (text != NULL) {
        write_id((char *)PyUnicode_1BYTE_DATA(text), owner->id);
    }
    return text;
}

void
lg_answer_mark(const struct lg_owner *owner, PyObject *scope)
{
    const struct lg_names *names = owner->agent->names;
    PyObject *state = PyDict_GetItemWithError(scope, names->state);
    PyObject *made = NULL;
    if (state == NULL && !PyErr_Occurred()) {
        state = made = PyDict_New();
        if (made != NULL && PyDict_SetItem(scope, names->state, made) < 0) {
            state = NULL;
        }
    }
    PyObject *id = state != NULL && PyDict_Check(state) ? lg_answer_id(owner) : NULL;
    if (id != NULL) {
        (void)PyDict_SetItem(state, names->loopguard_request_id, id);
    }
    Py_XDECREF(id);
    Py_XDECREF(made);
    PyErr_Clear();
}

/* ---- the answer -------------------------------------------------------- */

PyObject *
lg_answer_start(const struct lg_rules *rules, struct lg_owner *owner, PyObject *send, PyObject *own,
                PyObject **message)
{
    struct lg_blocked blocked = lg_charge_blocked(owner);
    *message = NULL;
    if (blocked.count != 0 && rules->strict && owner->status < 500) {
        PyObject *instead = refuse(rules, owner, send, &blocked);
        if (instead != NULL) {
            owner->answered = LG_ANSWER_HEADERS | LG_ANSWER_TIMING;
            return instead;
        }
    }
    unsigned wanted =
        (rules->headers ? LG_ANSWER_HEADERS : 0) | (rules->server_timing ? LG_ANSWER_TIMING : 0);
    wanted &= ~(unsigned)owner->answered;
    if (wanted != 0) {
        *message = with_headers(rules, owner, own, &blocked, wanted);
        owner->answered |= (uint8_t)wanted;
    }
    return NULL;
}

/* NULL when our own page cannot be made: then the application's answer goes. */
static PyObject *
refuse(const struct lg_rules *rules, struct lg_owner *owner, PyObject *send,
       const struct lg_blocked *blocked)
{
    PyObject *coro = NULL;
    PyObject *scope = Py_NewRef(owner->scope != NULL ? owner->scope : Py_None);
    PyObject *id = lg_answer_id(owner);
    char timing[TIMING_SIZE];
    write_timing(owner, timing);
    if (id != NULL && rules->refuse != NULL) {
        coro = PyObject_CallFunction(rules->refuse, "OOOIdz", send, scope, id,
                                     (unsigned int)blocked->count, (double)blocked->ns / 1e6,
                                     rules->server_timing ? timing : NULL);
    }
    Py_XDECREF(id);
    Py_DECREF(scope);
    if (coro == NULL) {
        PyErr_Clear();
    }
    return coro;
}

/* A copy of `own` with ours after its own headers. NULL: send `own`; with an
 * exception set when its headers raised it. */
static PyObject *
with_headers(const struct lg_rules *rules, struct lg_owner *owner, PyObject *own,
             const struct lg_blocked *blocked, unsigned wanted)
{
    const struct lg_names *names = owner->agent->names;
    PyObject *given = PyDict_GetItemWithError(own, names->headers);
    PyObject *list;
    if (given == NULL) {
        list = PyList_New(0);
    }
    else if (PyList_Check(given) || PyTuple_Check(given)) {
        list = Py_NewRef(given);
    }
    else {
        list = PySequence_List(given);  /* any iterable: a generator gives them once only */
        if (list == NULL) {
            return NULL;
        }
    }
    struct fields f = {.count = 0};
    if (list != NULL && (wanted & LG_ANSWER_HEADERS) != 0) {
        add_blocking(rules, owner, blocked, !has_request_id(list), &f);
    }
    if (list != NULL && (wanted & LG_ANSWER_TIMING) != 0) {
        char text[TIMING_SIZE];
        write_timing(owner, text);
        add(&f, pair_of_text(owner->agent->answer_parts->server_timing, text));
    }
    PyErr_Clear();
    Py_ssize_t n = list != NULL ? PySequence_Fast_GET_SIZE(list) : 0;
    PyObject *all = list != NULL ? PyList_New(n + f.count) : NULL;
    PyObject *message = all != NULL ? PyDict_Copy(own) : NULL;
    if (all != NULL) {
        PyObject **from = PySequence_Fast_ITEMS(list);
        for (Py_ssize_t i = 0; i < n; i++) {
            PyList_SET_ITEM(all, i, Py_NewRef(from[i]));
        }
        for (Py_ssize_t i = 0; i < f.count; i++) {
            PyList_SET_ITEM(all, n + i, f.item[i]);     /* steals */
        }
        f.count = 0;
    }
    while (f.count > 0) {
        Py_DECREF(f.item[--f.count]);
    }
    if (message != NULL && PyDict_SetItem(message, names->headers, all) < 0) {
        Py_CLEAR(message);
    }
    Py_XDECREF(all);
    Py_XDECREF(list);
    PyErr_Clear();
    return message;
}

/* The application gives its answers ids of its own. */
static bool
has_request_id(PyObject *list)
{
    PyObject **items = PySequence_Fast_ITEMS(list);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); i++) {
        PyObject *value;
        PyObject *name = pair_name(items[i], &value);
        if (name != NULL && same_ascii(name, "x-request-id", 12)) {
            return true;
        }
    }
    return false;
}

static void
add_blocking(const struct lg_rules *rules, struct lg_owner *owner, const struct lg_blocked *blocked,
             bool with_id, struct fields *f)
{
    struct lg_answer_parts *parts = owner->agent->answer_parts;
    if (with_id) {
        char id[REQUEST_ID_LENGTH];
        write_id(id, owner->id);
        add(f, pair_of(parts->request_id, PyBytes_FromStringAndSize(id, REQUEST_ID_LENGTH)));
    }
    if (blocked->count == 0) {
        for (int i = 0; i < 3; i++) {
            add(f, Py_NewRef(parts->innocent[i]));
        }
        return;
    }
    char text[32];
    snprintf(text, sizeof(text), "%u", (unsigned int)blocked->count);
    add(f, pair_of_text(parts->count, text));
    snprintf(text, sizeof(text), "%.2f", (double)blocked->ns / 1e6);
    add(f, pair_of_text(parts->total_ms, text));
    add(f, Py_NewRef(parts->guilty));
    if (rules->warning) {
        add(f, Py_NewRef(parts->warning));
    }
}

/* As W3C Server Timing has it, in ms: "loop" is the request's time on the loop
 * so far, "total" the time since it began. */
static void
write_timing(const struct lg_owner *owner, char out[TIMING_SIZE])
{
    uint64_t now = lg_now_ns();
    uint64_t on_loop = owner->on_loop_ns;
    const struct lg_loop *loop = lg_loop_current();
    if (loop != NULL && loop->running == owner) {
        on_loop += now - loop->step_start_ns - loop->excluded_ns;
    }
    snprintf(out, TIMING_SIZE, "loop;dur=%.3f, total;dur=%.3f", (double)on_loop / 1e6,
             (double)(now - owner->start_ns) / 1e6);
}

/* Steals `field`; one that could not be made is left out. */
static void
add(struct fields *f, PyObject *field)
{
    if (field != NULL) {
        f->item[f->count++] = field;
    }
}

static PyObject *
pair_of_text(PyObject *name, const char *text)
{
    return pair_of(name, PyBytes_FromString(text));
}

/* Steals `value`, which may be NULL. */
static PyObject *
pair_of(PyObject *name, PyObject *value)
{
    PyObject *pair = value != NULL ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
        Py_XDECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, Py_NewRef(name));
    PyTuple_SET_ITEM(pair, 1, value);
    return pair;
}

/* ---- type -------------------------------------------------------------- */

/* No tp_clear: see asgi_traverse() in asgi.c. */
static int
rules_traverse(struct lg_rules *self, visitproc visit, void *arg)
{
    LG_VISIT_TYPE(self);
    Py_VISIT(self->filter);
    Py_VISIT(self->filter_failed);
    Py_VISIT(self->refuse);
    Py_VISIT(self->swallow);
    return 0;
}

static void
rules_dealloc(struct lg_rules *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->exact);
    Py_CLEAR(self->prefixes);
    Py_CLEAR(self->filter);
    Py_CLEAR(self->filter_failed);
    Py_CLEAR(self->switch_name);
    Py_CLEAR(self->refuse);
    Py_CLEAR(self->swallow);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot rules_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What the answers of one wrapped application bear.")},
    {Py_tp_dealloc, rules_dealloc},
    {Py_tp_traverse, rules_traverse},
    {0, NULL},
};

static PyType_Spec rules_spec = {
    .name = "loopguard._agent.Rules",
    .basicsize = sizeof(struct lg_rules),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | LG_TPFLAGS_CLOSED,
    .slots = rules_slots,
};

int
lg_answer_add_types(PyObject *module, struct lg_agent *agent)
{
    static struct lg_answer_parts parts;
    parts.request_id = PyBytes_FromString("x-request-id");
    parts.count = PyBytes_FromString("x-blocking-count");
    parts.total_ms = PyBytes_FromString("x-blocking-total-ms");
    parts.server_timing = PyBytes_FromString("server-timing");
    parts.innocent[0] = Py_BuildValue("(yy)", "x-blocking-count", "0");
    parts.innocent[1] = Py_BuildValue("(yy)", "x-blocking-total-ms", "0.00");
    parts.innocent[2] = Py_BuildValue("(yy)", "x-blocking-detected", "false");
    parts.guilty = Py_BuildValue("(yy)", "x-blocking-detected", "true");
    parts.warning = Py_BuildValue("(yy)", "x-loopguard-warning", "blocking-detected");
    agent->answer_parts = &parts;
    agent->rules_type = PyType_FromModuleAndSpec(module, &rules_spec, NULL);
    return agent->rules_type == NULL || PyErr_Occurred() ? -1 : 0;
}
