/* A PKCS#11 module that forwards to a real one and misbehaves on request. For tests only.
 *
 * P11SHIM_REAL names the real module. P11SHIM_CONTROL names a file that is read again at every call, with lines
 *
 *     <function> return <code>     fail with this return code, without calling the real module
 *     <function> after <code>      call the real module, then claim this return code
 *     C_CreateObject second <code> fail with this return code at every second object
 *     <function> print             print to standard output, then go on
 *     <function> hang              never return
 *     <function> abort             end the process with SIGABRT
 *     <function> logout            log the whole process out first (functions that take a session)
 *     <function> short             (C_Sign) return a signature of 63 bytes
 *     <function> garble            (C_Sign) return a signature with one bit changed
 *     token nologin                clear CKF_LOGIN_REQUIRED
 *     token renamed                change the token's label
 *     token flags <mask>           set these CKF_* in CK_TOKEN_INFO
 *     token late                   C_GetTokenInfo fails until C_Finalize was called once
 *     token noecdsa                hide CKM_ECDSA
 *     token nolocking              C_Initialize answers CKR_CANT_LOCK when asked for locking
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef struct { unsigned char version[2]; void *functions[68]; } function_list;
typedef struct { unsigned char text[96]; ulong_t flags; } token_info; /* the part that matters */

enum { INITIALIZE = 0, FINALIZE = 1, GET_TOKEN_INFO = 6, GET_MECHANISMS = 7, OPEN_SESSION = 12, CLOSE_SESSION = 13,
       SESSION_INFO = 15, LOGIN = 18, LOGOUT = 19, CREATE = 20, FIND_INIT = 26, SIGN_INIT = 42, SIGN = 43, GENERATE_PAIR = 59 };

static function_list *real_list, list;
static int finalized;

static int directive(const char *function, const char *verb, ulong_t *value) {
    char line[256], name[64], what[64];
    int found = 0;
    FILE *control = fopen(getenv("P11SHIM_CONTROL"), "r");
    if (!control) return 0;
    while (!found && fgets(line, sizeof line, control)) {
        ulong_t number = 0;
        if (sscanf(line, "%63s %63s %li", name, what, (long *)&number) >= 2 && !strcmp(name, function) && !strcmp(what, verb)) {
            found = 1;
            if (value) *value = number;
        }
    }
    fclose(control);
    return found;
}

static int before(const char *function, ulong_t session, ulong_t *rv) {
    if (directive(function, "print", NULL)) { printf("vendor chatter from %s\n", function); fflush(stdout); }
    if (directive(function, "hang", NULL)) for (;;) pause();
    if (directive(function, "abort", NULL)) abort();
    if (directive(function, "logout", NULL)) ((ulong_t (*)(ulong_t))real_list->functions[LOGOUT])(session);
    return directive(function, "return", rv);
}

/* Every argument of the forwarded functions is a word or a pointer, so eight words forward them all. */
typedef ulong_t (*any_function)(ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t);
#define ARGS ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g, ulong_t h
#define CALL(n) ((any_function)real_list->functions[n])(a, b, c, d, e, f, g, h)
#define FORWARD(name, number)                                        \
    static ulong_t shim_##name(ARGS) {                               \
        ulong_t rv = 0, claimed = 0;                                 \
        if (before(#name, a, &rv)) return rv;                           \
        rv = CALL(number);                                           \
        return directive(#name, "after", &claimed) ? claimed : rv;   \
    }

FORWARD(C_OpenSession, OPEN_SESSION)
FORWARD(C_CloseSession, CLOSE_SESSION)
FORWARD(C_GetSessionInfo, SESSION_INFO)
FORWARD(C_Login, LOGIN)
FORWARD(C_FindObjectsInit, FIND_INIT)
FORWARD(C_SignInit, SIGN_INIT)
FORWARD(C_GenerateKeyPair, GENERATE_PAIR)

static ulong_t shim_C_Initialize(ARGS) {
    ulong_t rv = 0;
    if (before("C_Initialize", a, &rv)) return rv;
    if (a && directive("token", "nolocking", NULL)) return 0x0a;
    return CALL(INITIALIZE);
}

static ulong_t shim_C_Finalize(ARGS) {
    ulong_t rv = 0;
    if (before("C_Finalize", a, &rv)) return rv;
    finalized = 1;
    return CALL(FINALIZE);
}

static ulong_t shim_C_GetMechanismList(ARGS) {
    ulong_t rv = 0, i, *mechanisms = (ulong_t *)b;
    if (before("C_GetMechanismList", a, &rv)) return rv;
    rv = CALL(GET_MECHANISMS);
    if (b && directive("token", "noecdsa", NULL))
        for (i = 0; i < *(ulong_t *)c; i++)
            if (mechanisms[i] == 0x1041) mechanisms[i] = 0x1042;
    return rv;
}

static ulong_t shim_C_GetTokenInfo(ARGS) {
    ulong_t rv = 0, flags = 0;
    if (before("C_GetTokenInfo", a, &rv)) return rv;
    if (!finalized && directive("token", "late", NULL)) return 0xe0;
    rv = CALL(GET_TOKEN_INFO);
    if (directive("token", "flags", &flags)) ((token_info *)b)->flags |= flags;
    if (directive("token", "nologin", NULL)) ((token_info *)b)->flags &= ~4ul;
    if (directive("token", "renamed", NULL)) ((token_info *)b)->text[0] ^= 1;
    return rv;
}

static ulong_t shim_C_CreateObject(ARGS) {
    static int objects;
    ulong_t rv = 0;
    if (before("C_CreateObject", a, &rv)) return rv;
    if (directive("C_CreateObject", "second", &rv) && ++objects % 2 == 0) return rv;
    return CALL(CREATE);
}

static ulong_t shim_C_Sign(ARGS) {
    ulong_t rv = 0, claimed = 0;
    if (before("C_Sign", a, &rv)) return rv;
    rv = CALL(SIGN);
    if (directive("C_Sign", "short", NULL)) *(ulong_t *)e = 63;
    if (directive("C_Sign", "garble", NULL)) ((unsigned char *)d)[63] ^= 1;
    return directive("C_Sign", "after", &claimed) ? claimed : rv;
}

ulong_t C_GetFunctionList(function_list **out) {
    ulong_t (*get)(function_list **);
    void *module = dlopen(getenv("P11SHIM_REAL"), RTLD_NOW | RTLD_LOCAL);
    if (!module) return 5;
    get = (ulong_t (*)(function_list **))dlsym(module, "C_GetFunctionList");
    if (get(&real_list)) return 5;
    list = *real_list;
    list.functions[INITIALIZE] = shim_C_Initialize;
    list.functions[FINALIZE] = shim_C_Finalize;
    list.functions[GET_TOKEN_INFO] = shim_C_GetTokenInfo;
    list.functions[GET_MECHANISMS] = shim_C_GetMechanismList;
    list.functions[OPEN_SESSION] = shim_C_OpenSession;
    list.functions[CLOSE_SESSION] = shim_C_CloseSession;
    list.functions[SESSION_INFO] = shim_C_GetSessionInfo;
    list.functions[LOGIN] = shim_C_Login;
    list.functions[CREATE] = shim_C_CreateObject;
    list.functions[FIND_INIT] = shim_C_FindObjectsInit;
    list.functions[SIGN_INIT] = shim_C_SignInit;
    list.functions[SIGN] = shim_C_Sign;
    list.functions[GENERATE_PAIR] = shim_C_GenerateKeyPair;
    *out = &list;
    return 0;
}
