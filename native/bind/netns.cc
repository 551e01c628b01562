#include "netns.h"

#include <fcntl.h>
#include <net/if.h>

#include <functional>
#include <memory>

#include "../core/lock_file.h"
#include "../core/netns.h"
#include "../core/pod_link.h"
#include "convert.h"
#include "environment.h"
#include "fd.h"
#include "in_netns.h"
#include "link_watch.h"

namespace vu::bind {
namespace {

// The same for the namespace that is the first argument.
Napi::Value inNetns(const Napi::CallbackInfo& info, std::function<NetnsFailure()> work,
                    std::function<napi_value(Napi::Env)> value) {
  const Napi::Env env = info.Env();
  const auto borrowed = Fd::borrow(env, info[0], "netns");
  if (!borrowed) return env.Undefined();
  return inNetns(env, static_cast<NetnsOperations*>(info.Data()), *borrowed, std::move(work), std::move(value));
}

napi_value nullValue(napi_env env) {
  napi_value made = nullptr;
  napi_get_null(env, &made);
  return made;
}

napi_value boolean(napi_env env, bool value) {
  napi_value made = nullptr;
  napi_get_boolean(env, value, &made);
  return made;
}

// A property that is a number or null. false: wrong type, thrown.
bool optionalUint32(napi_env env, napi_value object, const char* name, std::optional<uint32_t>* target) {
  const auto value = property(env, object, name);
  if (!value) return false;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, *value, &type);
  target->reset();
  if (type == napi_null || type == napi_undefined) return true;
  *target = toUint32(env, *value, name);
  return target->has_value();
}

std::optional<IpAddress> addressProperty(napi_env env, napi_value object, const char* name) {
  const auto value = textProperty(env, object, name);
  if (!value) return std::nullopt;
  const auto address = IpAddress::parse(*value);
  if (!address) return wrongType(env, name, "an IP address");
  return address;
}

std::optional<uint8_t> prefixProperty(napi_env env, napi_value object, const IpAddress& address) {
  const auto prefix = uint32Property(env, object, "prefixLength");
  if (!prefix) return std::nullopt;
  if (*prefix > address.size() * 8) return wrongType(env, "prefixLength", "a prefix length of the address's family");
  return static_cast<uint8_t>(*prefix);
}

// As the kernel judges (dev_valid_name), and no '%': TUNSETIFF would take it for a pattern.
std::optional<std::string> toLinkName(napi_env env, napi_value value) {
  const auto name = toText(env, value, "name");
  if (!name) return std::nullopt;
  if (name->empty() || name->size() >= IFNAMSIZ || *name == "." || *name == ".." ||
      name->find_first_of("/:% \t\n\v\f\r") != std::string::npos) {
    return wrongType(env, "name", "the name of a link");
  }
  return name;
}

std::optional<TapSpec> toTapSpec(napi_env env, napi_value object) {
  TapSpec spec;
  const auto nameValue = property(env, object, "name");
  if (!nameValue) return std::nullopt;
  const auto name = toLinkName(env, *nameValue);
  if (!name) return std::nullopt;
  spec.name = *name;
  const auto queues = uint32Property(env, object, "queues");
  if (!queues) return std::nullopt;
  if (*queues < 1 || *queues > 256) return wrongType(env, "queues", "1..256");
  spec.queues = *queues;
  const auto headerBytes = uint32Property(env, object, "headerBytes");
  if (!headerBytes) return std::nullopt;
  if (*headerBytes != 10 && *headerBytes != 12) return wrongType(env, "headerBytes", "10 or 12");
  spec.headerBytes = *headerBytes;
  if (!optionalUint32(env, object, "adoptIfindex", &spec.adoptIfindex)) return std::nullopt;
  const auto macText = textProperty(env, object, "mac");
  if (!macText) return std::nullopt;
  const auto mac = parseMac(*macText);
  if (!mac) return wrongType(env, "mac", "a MAC address");
  spec.attributes.mac = *mac;
  const auto mtu = uint32Property(env, object, "mtu");
  if (!mtu) return std::nullopt;
  spec.attributes.mtu = *mtu;
  const auto txQueueLength = uint32Property(env, object, "txQueueLength");
  if (!txQueueLength) return std::nullopt;
  spec.attributes.txQueueLength = *txQueueLength;
  const auto gsoMaxBytes = uint32Property(env, object, "gsoMaxBytes");
  if (!gsoMaxBytes) return std::nullopt;
  spec.attributes.gsoMaxBytes = *gsoMaxBytes;
  return spec;
}

std::optional<LinkRoute> toRoute(napi_env env, napi_value item) {
  LinkRoute route;
  const auto destination = addressProperty(env, item, "destination");
  if (!destination) return std::nullopt;
  route.destination = *destination;
  const auto prefix = prefixProperty(env, item, *destination);
  if (!prefix) return std::nullopt;
  route.prefixLength = *prefix;
  const auto gateway = property(env, item, "gateway");
  if (!gateway) return std::nullopt;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, *gateway, &type);
  if (type != napi_null) {
    route.gateway = addressProperty(env, item, "gateway");
    if (!route.gateway) return std::nullopt;
    if (route.gateway->family != route.destination.family) {
      return wrongType(env, "gateway", "an address of the destination's family");
    }
  }
  const std::pair<const char*, std::optional<uint32_t>*> numbers[] = {{"mtu", &route.mtu},
                                                                      {"advmss", &route.advmss},
                                                                      {"priority", &route.priority},
                                                                      {"table", &route.table},
                                                                      {"scope", &route.scope}};
  for (const auto& [name, target] : numbers) {
    if (!optionalUint32(env, item, name, target)) return std::nullopt;
  }
  return route;
}

std::optional<LinkSetup> toLinkSetup(napi_env env, napi_value object) {
  LinkSetup setup;
  const auto ifindex = uint32Property(env, object, "ifindex");
  if (!ifindex) return std::nullopt;
  setup.ifindex = *ifindex;
  const auto addressesValue = property(env, object, "addresses");
  if (!addressesValue) return std::nullopt;
  const auto addressItems = toArray(env, *addressesValue, "addresses");
  if (!addressItems) return std::nullopt;
  for (napi_value item : *addressItems) {
    const auto address = addressProperty(env, item, "address");
    if (!address) return std::nullopt;
    const auto prefix = prefixProperty(env, item, *address);
    if (!prefix) return std::nullopt;
    setup.addresses.push_back(LinkAddress{*address, *prefix});
  }
  const auto routesValue = property(env, object, "routes");
  if (!routesValue) return std::nullopt;
  const auto routeItems = toArray(env, *routesValue, "routes");
  if (!routeItems) return std::nullopt;
  for (napi_value item : *routeItems) {
    const auto route = toRoute(env, item);
    if (!route) return std::nullopt;
    setup.routes.push_back(*route);
  }
  return setup;
}

Napi::Value openTapJs(const Napi::CallbackInfo& info) {
  const auto spec = toTapSpec(info.Env(), info[1]);
  if (!spec) return info.Env().Undefined();
  const auto opened = std::make_shared<OpenedTap>();
  return inNetns(
      info, [spec = *spec, opened] { return openTap(spec, opened.get()); },
      [opened](Napi::Env env) {
        std::vector<napi_value> queues;
        for (UniqueFd& fd : opened->queues) queues.push_back(Fd::wrap(env, std::move(fd)));
        napi_value result = nullptr;
        napi_create_object(env, &result);
        napi_set_named_property(env, result, "ifindex", number(env, opened->ifindex));
        napi_set_named_property(env, result, "queues", array(env, queues));
        return result;
      });
}

Napi::Value setupPodLinkJs(const Napi::CallbackInfo& info) {
  const auto setup = toLinkSetup(info.Env(), info[1]);
  if (!setup) return info.Env().Undefined();
  return inNetns(
      info, [setup = *setup] { return setupLink(setup); }, [](Napi::Env env) -> napi_value { return env.Undefined(); });
}

napi_value routeValue(napi_env env, const LinkRoute& route) {
  const auto orNull = [env](const std::optional<uint32_t>& value) {
    return value ? number(env, *value) : nullValue(env);
  };
  napi_value result = nullptr;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "destination", text(env, route.destination.text()));
  napi_set_named_property(env, result, "prefixLength", number(env, route.prefixLength));
  napi_set_named_property(env, result, "gateway", route.gateway ? text(env, route.gateway->text()) : nullValue(env));
  napi_set_named_property(env, result, "mtu", orNull(route.mtu));
  napi_set_named_property(env, result, "advmss", orNull(route.advmss));
  napi_set_named_property(env, result, "priority", orNull(route.priority));
  napi_set_named_property(env, result, "table", orNull(route.table));
  napi_set_named_property(env, result, "scope", orNull(route.scope));
  return result;
}

napi_value stateValue(napi_env env, const LinkState& state) {
  std::vector<napi_value> addresses, routes;
  for (const LinkAddress& address : state.addresses) {
    napi_value item = nullptr;
    napi_create_object(env, &item);
    napi_set_named_property(env, item, "address", text(env, address.address.text()));
    napi_set_named_property(env, item, "prefixLength", number(env, address.prefixLength));
    addresses.push_back(item);
  }
  for (const LinkRoute& route : state.routes) routes.push_back(routeValue(env, route));
  napi_value result = nullptr;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "ifindex", number(env, state.info.ifindex));
  napi_set_named_property(env, result, "kind", state.info.kind.empty() ? nullValue(env) : text(env, state.info.kind));
  napi_set_named_property(env, result, "mac", text(env, macText(state.info.mac)));
  napi_set_named_property(env, result, "mtu", number(env, state.info.mtu));
  napi_set_named_property(env, result, "up", boolean(env, state.info.up));
  napi_set_named_property(env, result, "carrier", boolean(env, state.info.carrier));
  napi_set_named_property(env, result, "addresses", array(env, addresses));
  napi_set_named_property(env, result, "routes", array(env, routes));
  return result;
}

Napi::Value inspectPodLinkJs(const Napi::CallbackInfo& info) {
  const auto name = toLinkName(info.Env(), info[1]);
  if (!name) return info.Env().Undefined();
  const auto state = std::make_shared<std::optional<LinkState>>();
  return inNetns(
      info, [name = *name, state] { return inspectLink(name, state.get()); },
      [state](Napi::Env env) { return *state ? stateValue(env, **state) : nullValue(env); });
}

Napi::Value deletePodLinkJs(const Napi::CallbackInfo& info) {
  const auto name = toLinkName(info.Env(), info[1]);
  if (!name) return info.Env().Undefined();
  const auto ifindex = toUint32(info.Env(), info[2], "ifindex");
  if (!ifindex) return info.Env().Undefined();
  const auto deleted = std::make_shared<bool>(false);
  return inNetns(
      info, [name = *name, ifindex = *ifindex, deleted] { return deleteLink(name, ifindex, deleted.get()); },
      [deleted](Napi::Env env) { return boolean(env, *deleted); });
}

Napi::Value openNetnsJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto path = toText(env, info[0], "path");
  if (!path) return env.Undefined();
  Result<UniqueFd> fd = openNetns(*path);
  if (!fd) {
    throwFault(env, fd.fault(), path->c_str());
    return env.Undefined();
  }
  return Napi::Value(env, Fd::wrap(env, std::move(fd).value()));
}

Napi::Value ownNetnsJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Result<UniqueFd> fd = ownNetns();
  if (!fd) {
    throwFault(env, fd.fault());
    return env.Undefined();
  }
  return Napi::Value(env, Fd::wrap(env, std::move(fd).value()));
}

Napi::Value checkNetnsJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto fd = Fd::borrow(env, info[0], "netns");
  if (!fd) return env.Undefined();
  const Result<void> checked = checkNetns(*fd);
  if (!checked) throwFault(env, checked.fault());
  return env.Undefined();
}

Napi::Value tryLockFileJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto path = toText(env, info[0], "path");
  if (!path) return env.Undefined();
  const auto shared = toBool(env, info[1], "shared");
  if (!shared) return env.Undefined();
  Result<std::optional<UniqueFd>> locked = tryLockFile(*path, *shared);
  if (!locked) {
    throwFault(env, locked.fault(), path->c_str());
    return env.Undefined();
  }
  if (!locked.value()) return env.Null();
  return Napi::Value(env, Fd::wrap(env, std::move(*locked.value())));
}

}  // namespace

void registerNetns(Napi::Env env, Napi::Object exports) {
  // Never freed, on purpose: events that come late refer to it.
  auto* operations = new NetnsOperations(Environment::of(env).events);
  Environment::of(env).add(Stage::kIo, operations);
  exports.Set("openNetns", Napi::Function::New(env, openNetnsJs, "openNetns"));
  exports.Set("ownNetns", Napi::Function::New(env, ownNetnsJs, "ownNetns"));
  exports.Set("checkNetns", Napi::Function::New(env, checkNetnsJs, "checkNetns"));
  exports.Set("openTap", Napi::Function::New(env, openTapJs, "openTap", operations));
  exports.Set("setupPodLink", Napi::Function::New(env, setupPodLinkJs, "setupPodLink", operations));
  exports.Set("inspectPodLink", Napi::Function::New(env, inspectPodLinkJs, "inspectPodLink", operations));
  exports.Set("deletePodLink", Napi::Function::New(env, deletePodLinkJs, "deletePodLink", operations));
  registerLinkWatch(env, exports, operations);
  exports.Set("tryLockFile", Napi::Function::New(env, tryLockFileJs, "tryLockFile"));
}

}  // namespace vu::bind
